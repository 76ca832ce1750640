"""Errors in the form of OpenAI's API, in words that help a person: what was given, what was expected, what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from paretune.core.errors import ParetuneError

LONGEST_WAIT = 30.0
"""Seconds; nobody is told to wait longer before another try, as estimates of a queue's length are rough."""
NAMES = (
    "expected a name of at most 64 letters, digits, spaces, '_', '-' and '.', which starts with a letter, a digit or '_' and does "
    "not end with a space"
)
EXPECTED = {
    "missing": "is missing",
    "extra_forbidden": "unknown field; leave it out",
    "string_type": "expected text",
    "string_unicode": "expected text of whole unicode characters; half of a surrogate pair is none",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "expected a smaller number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "dict_type": "expected an object with fields",
    "model_type": "expected an object with fields",
    "model_attributes_type": "expected an object with fields",
    "finite_number": "expected a finite number",
    "greater_than": "expected a number above {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected a number below {lt}",
    "less_than_equal": "expected at most {le}",
    "too_long": "expected at most {max_length} entries",
    "too_short": "expected at least {min_length} entries",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
    "literal_error": "expected one of {expected}",
    "string_pattern_mismatch": NAMES,
}
"""Kind of pydantic's finding -> what to tell; the only pattern is that of names."""


class ApiError(ParetuneError):
    """A response other than success, in the form that OpenAI's clients read."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    @property
    def body(self) -> bytes:
        """Error as JSON; characters outside ASCII are escaped."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        content = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": content}).encode("ascii")

    @property
    def headers(self) -> dict[str, str]:
        """Headers: content type, and when to try again."""
        wait = (
            {}
            if self.retry_after is None
            else {"retry-after": str(max(1, round(min(self.retry_after, LONGEST_WAIT))))}
        )
        more = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        return {"content-type": "application/json", **wait, **more}


class _Failed(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class Failure(BaseModel):
    """The form of every error."""

    error: _Failed


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def validation_error(findings: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return pydantic's findings as one error: 400 for invalid JSON, else 422 with the field and what it expects."""
    first = findings[0]
    kind = str(first["type"])
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "damaged")
        return ApiError(400, f"the body is not valid JSON ({reason})", "invalid_json")
    if kind == "unsupported_parameter":
        return ApiError(400, str(first["msg"]), kind, str(first.get("ctx", {}).get("field")))
    param = _field(first) or None
    told = "; or ".join(
        dict.fromkeys(_expected(finding) for finding in findings[:4] if _field(finding) == (param or ""))
    )
    given = first.get("input")
    shown = isinstance(given, str | int | float) and kind not in ("missing", "extra_forbidden")
    value = (
        f" {json.dumps(given)[:80]}:" if shown and not (isinstance(given, str) and len(given) > 60) else ""
    )
    return ApiError(422, f"{param or 'the request'}:{value} {told}", "invalid_value", param)


def unreadable_body(cause: BaseException) -> str:
    """Return why the body of a request cannot be read as JSON, with what to send."""
    reason = {UnicodeDecodeError: "it is not UTF-8", RecursionError: "it is nested too deeply"}.get(
        type(cause), " ".join(str(cause).partition(":")[0].split())[:100] or type(cause).__name__
    )
    return f"the body is not valid JSON ({reason}); send JSON in UTF-8 that is not compressed"


def _field(finding: Mapping[str, Any]) -> str:
    """Return the path of a field as people write it, without the names of the types that it may have."""
    path = [str(part)[:100] for part in finding.get("loc", ()) if part not in ("body", "query", "path")]
    types = ("function-", "constrained-", "list[", "dict[", "tagged-", "lax-", "json-or-")
    return ".".join(
        part for part in path if not part.startswith(types) and part not in ("str", "union", "nullable")
    )


def _expected(finding: Mapping[str, Any]) -> str:
    text = EXPECTED.get(str(finding["type"]), str(finding["msg"]))
    try:
        return text.format(**finding.get("ctx", {}))
    except (KeyError, IndexError):
        return str(finding["msg"])
