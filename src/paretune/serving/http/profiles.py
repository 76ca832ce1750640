"""Routes of profiles and presets: who votes, and the preferences that people keep under a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from paretune.scoring.auto_head import AUTO
from paretune.serving.api_errors import ApiError
from paretune.serving.bodies import Given, Name, Policy
from paretune.serving.body import Body
from paretune.serving.callers import Caller
from paretune.serving.http.guard import Calling
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.service import Service, require_own
from paretune.serving.store.entries import Preset, Profile, checked_name
from paretune.serving.store.store import Deleted


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
    routes = APIRouter(prefix="/api", tags=["people"], route_class=JsonRoute)

    @routes.get("/profiles")
    def profiles(caller: Calling) -> dict[str, Any]:
        """List the profiles that a key may use: its own, and those of nobody."""
        found = service.require_store().profiles()
        return {"profiles": [_profile(profile, caller) for profile in found if caller.may_use(profile.owner)]}

    @routes.post("/profiles", status_code=201)
    def make_profile(caller: Calling, body: ProfileRequest) -> dict[str, Any]:
        """Create a profile, or return the one of this name."""
        store = service.require_person(caller, body.name)
        return _profile(store.profile(body.name, caller.owner), caller)

    @routes.delete("/profiles/{name:path}")
    def delete_profile(caller: Calling, name: Name) -> dict[str, Any]:
        """Delete a profile with all that is in it. The profile that several keys share is an admin's to delete."""
        store = service.require_person(caller, name)
        found = store.find_profile(name)
        if found is None:
            raise ApiError(404, f"no profile {name!r}", "not_found", "name")
        if found.owner is None and not caller.admin:
            message = f"the profile {name!r} is shared by all API keys; only an admin's key deletes it"
            raise ApiError(403, message, "not_yours", "name")
        deleted = store.delete_profile(name)
        return {"deleted": name, **(deleted or Deleted(0, 0, 0))._asdict()}

    @routes.get("/presets")
    def presets(caller: Calling, profile: Name = "default") -> dict[str, Any]:
        """List the presets of a profile."""
        store = service.require_person(caller, profile)
        return {"presets": [_preset(preset, caller) for preset in store.presets(profile)]}

    @routes.put("/presets/{name:path}")
    def save_preset(caller: Calling, name: Name, body: PresetRequest) -> dict[str, Any]:
        """Save a preference under a name; a preset of the same name is replaced."""
        if checked_name(name, "preset") == AUTO:
            message = f"{AUTO!r} is what asks for a preference by the prompt; choose another name"
            raise ApiError(422, message, "invalid_value", "name")
        served = service.policy(body.policy)
        preference = service.preference(served, body.preference)
        store = service.require_person(caller, body.profile)
        require_own(caller, _owner(store.presets(body.profile), name), f"the preset {name!r}", "name")
        return _preset(store.save_preset(body.profile, name, served.name, preference, caller.owner), caller)

    @routes.delete("/presets/{name:path}")
    def delete_preset(caller: Calling, name: Name, profile: Name = "default") -> dict[str, Any]:
        """Delete a preset."""
        store = service.require_person(caller, profile)
        require_own(caller, _owner(store.presets(profile), name), f"the preset {name!r}", "name")
        if not store.delete_preset(profile, name):
            raise ApiError(404, f"no preset {name!r} of profile {profile!r}", "not_found", "name")
        return {"deleted": name}

    return routes


def _owner(presets: Sequence[Preset], name: str) -> str | None:
    return next((preset.owner for preset in presets if preset.name == checked_name(name, "preset")), None)


def _profile(profile: Profile, caller: Caller) -> dict[str, Any]:
    return {
        "name": profile.name,
        "created": profile.created.isoformat(),
        "votes": profile.votes,
        "deletable": caller.admin or profile.owner is not None,
    }


def _preset(preset: Preset, caller: Caller) -> dict[str, Any]:
    return {
        "name": preset.name,
        "profile": preset.profile,
        "policy": preset.policy,
        "preference": preset.preference.as_dict(),
        "model": f"{preset.policy}@{preset.name}",
        "updated": preset.updated.isoformat(),
        "deletable": caller.may_use(preset.owner),
    }
