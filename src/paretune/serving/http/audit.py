"""The route of the audit: which preference each request was served with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query

from paretune.serving.bodies import Whole
from paretune.serving.http.guard import Calling
from paretune.serving.service import Service

if TYPE_CHECKING:
    from paretune.serving.store.entries import AuditRecord


def router(service: Service) -> APIRouter:
    """Return the route over the service's store."""
    routes = APIRouter(prefix="/api", tags=["people"])

    @routes.get("/audit")
    def audit(
        caller: Calling,
        limit: Annotated[Whole, Query(ge=1, le=1000)] = 100,
        before: Annotated[Whole | None, Query(ge=1, le=2**62)] = None,
    ) -> dict[str, Any]:
        """List the preferences used, the newest first; ``before`` is the id of a record to go on from. A key sees its own."""
        records = service.require_store().audit(limit, before, caller.limited_to)
        return {"records": [_record(record) for record in records]}

    return routes


def _record(record: AuditRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "created": None if record.created is None else record.created.isoformat(),
        "request": record.request_id,
        "client": record.client,
        "model": record.model,
        "policy": record.policy,
        "asked": None if record.asked is None else record.asked.as_dict(),
        "used": record.used.as_dict(),
        **({} if record.strength == 1 else {"strength": record.strength}),
        **({"chosen_by": record.chosen_by} if record.chosen_by else {}),
    }
