"""`ToolFields`: the fields of a conversation that offer tools to the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from q3edge.artifact import Notice
from q3edge.runtime.text.message_checks import check_tools
from q3edge.server.body import Body
from q3edge.server.errors import about
from q3edge.server.limits import MAX_TOOLS

_STRICT = "arguments of tools are not held to their schemas: strict has no effect"


class Function(Body):
    """Description of a function; parameters: a JSON Schema, which the model reads and nothing enforces."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[\w.:-]{1,128}$")]
    description: Annotated[str, Field(max_length=20_000)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionType(Body):
    """Type of a tool; there are functions alone."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]


class ToolFields(FunctionType):
    """A tool."""

    function: Function


class ToolsFields(Body):
    """Fields of a request that may offer tools."""

    tools: Annotated[list[ToolFields], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["auto", "none"] | None = None

    @property
    def offered(self) -> list[dict[str, Any]] | None:
        """Tools as a template takes them; None: there are none. ApiError 400: one is invalid."""
        if not self.tools or self.tool_choice == "none":
            return None
        found = [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in self.tools]
        with about("tools"):
            check_tools(found)
        return found

    @property
    def tool_notices(self) -> tuple[Notice, ...]:
        """What is not done that the tools ask for."""
        strict = sum(bool(tool.function.strict) for tool in self.tools or ())
        return (Notice("tool-not-strict", strict, _STRICT),) if strict else ()
