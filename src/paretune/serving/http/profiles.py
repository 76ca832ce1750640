"""Routes of profiles and presets."""

from __future__ import annotations

from paretune.serving.bodies import Body, Given, Name, Policy


class ProfileRequest(Body):
    """Whose profile to make."""

    name: Name


class PresetRequest(Body):
    """A preference to keep under a name."""

    profile: Name = "default"
    policy: Policy | None = None
    preference: Given
