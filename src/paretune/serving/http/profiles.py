"""Routes of profiles and presets: who votes, and the preferences that people keep under a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from paretune.serving.bodies import ApiError, Body, Given, Name, Policy
from paretune.serving.service import Service

if TYPE_CHECKING:
    from paretune.serving.store.entries import Preset, Profile


class ProfileRequest(Body):
    """The name of a profile."""

    name: Name


class PresetRequest(Body):
    """A preference to keep under a name."""

    profile: Name = "default"
    policy: Policy | None = None
    preference: Given


def router(service: Service) -> APIRouter:
    """Return the routes over the service's store."""
    routes = APIRouter(prefix="/api", tags=["people"])

    @routes.get("/profiles")
    def profiles() -> dict[str, Any]:
        """List all profiles."""
        return {"profiles": [_profile(profile) for profile in service.require_store().profiles()]}

    @routes.post("/profiles", status_code=201)
    def make_profile(body: ProfileRequest) -> dict[str, Any]:
        """Create a profile, or return the one of this name."""
        return _profile(service.require_store().profile(body.name))

    @routes.get("/presets")
    def presets(profile: Name = "default") -> dict[str, Any]:
        """List the presets of a profile."""
        return {"presets": [_preset(preset) for preset in service.require_store().presets(profile)]}

    @routes.put("/presets/{name}")
    def save_preset(name: Name, body: PresetRequest) -> dict[str, Any]:
        """Save a preference under a name; a preset of the same name is replaced."""
        served = service.policy(body.policy)
        preference = service.preference(served, body.preference)
        return _preset(service.require_store().save_preset(body.profile, name, served.name, preference))

    @routes.delete("/presets/{name}")
    def delete_preset(name: Name, profile: Name = "default") -> dict[str, Any]:
        """Delete a preset."""
        if not service.require_store().delete_preset(profile, name):
            raise ApiError(404, f"no preset {name!r} of profile {profile!r}", "not_found", "name")
        return {"deleted": name}

    return routes


def _profile(profile: Profile) -> dict[str, Any]:
    return {"name": profile.name, "created": profile.created.isoformat()}


def _preset(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name,
        "profile": preset.profile,
        "policy": preset.policy,
        "preference": preset.preference.as_dict(),
        "model": f"{preset.policy}@{preset.name}",
        "updated": preset.updated.isoformat(),
    }
