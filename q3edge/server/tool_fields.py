"""`ToolFields`: the fields of a conversation that offer tools to the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from q3edge.artifact import Notice
from q3edge.runtime.generation.tool_format import FORCED, FREE
from q3edge.runtime.text.message_checks import check_tools
from q3edge.server.body import Body
from q3edge.server.errors import about, bad_field
from q3edge.server.format_fields import check_formats
from q3edge.server.limits import MAX_TOOLS

_STRICT = "arguments of tools are held to their schemas only where a call is required: strict has no effect"
Name = Annotated[str, Field(pattern=r"^[\w.:-]{1,128}$")]


class Function(Body):
    """Description of a function; parameters: a JSON Schema, to which a call that is required is held."""

    model_config = ConfigDict(extra="forbid")

    name: Name
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


class NamedFunction(Body):
    """Name of a function."""

    model_config = ConfigDict(extra="forbid")

    name: Name


class NamedTool(FunctionType):
    """The tool that has to be called."""

    function: NamedFunction


def text_or_object(value: object) -> str:
    """Tag of the kind that a choice of a tool is meant to be."""
    return "str" if isinstance(value, str) else "dict"


Mode = Annotated[Literal["auto", "none", "required"], Tag("str")]
Choice = Annotated[
    Mode | Annotated[NamedTool, Tag("dict")],
    Discriminator(text_or_object),
]


class ToolsFields(Body):
    """Fields of a request that may offer tools."""

    tools: Annotated[list[ToolFields], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool = True

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
    def calling(self) -> dict[str, Any]:
        """How the tools are called, as `Model.streams` takes it.

        ApiError 400: there is no such tool, or no call can be forced here.
        """
        choice = FREE if self.tool_choice == "none" else self.tool_choice or FREE
        if isinstance(choice, NamedTool):
            choice = choice.function.name
            if choice not in [tool.function.name for tool in self.tools or ()]:
                raise bad_field("tool_choice", f"there is no tool {choice!r} in tools")
        elif choice == FORCED and not self.tools:
            raise bad_field("tool_choice", "there are no tools to call; give tools")
        if choice != FREE:
            check_formats("tool_choice")
        return {"tool_choice": choice, "parallel_tool_calls": self.parallel_tool_calls}

    @property
    def tool_notices(self) -> tuple[Notice, ...]:
        """What is not done that the tools ask for."""
        if self.tool_choice not in (None, "auto"):
            return ()
        strict = sum(bool(tool.function.strict) for tool in self.tools or ())
        return (Notice("tool-not-strict", strict, _STRICT),) if strict else ()
