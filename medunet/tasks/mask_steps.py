"""What can be done to the mask of a label after the network, as descriptions; `medunet.postprocessing` does it.

They stand here because task recipes name them. In a recipe a step is its name, or its name with options:

```yaml
postprocessing:
  bladder: [keep-largest, fill-holes, {remove-small: {ml: 0.5}}]
```

On the command line the same are ``keep-largest``, ``fill-holes`` and ``remove-small:ml=0.5``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, Final, TypeAlias, TypeVar

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from medunet.tasks.suggestion import suggest

PLANES: Final = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, kw_only=True)
class MaskStep:
    """One change to the mask of one label; the base of all."""

    name: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class KeepLargest(MaskStep):
    """Keep the largest connected part; of several largest ones all."""

    name: ClassVar[str] = "keep-largest"


@dataclass(frozen=True, kw_only=True)
class RemoveSmall(MaskStep):
    """Remove connected parts that are smaller than a volume, be it the whole label.

    Attributes:
        ml: Parts of this volume or more stay.
    """

    name: ClassVar[str] = "remove-small"
    ml: float

    def __post_init__(self) -> None:
        check_positive(self.name, "ml", self.ml)


@dataclass(frozen=True, kw_only=True)
class FillHoles(MaskStep):
    """Fill what a label encloses.

    Attributes:
        plane: None fills cavities that are closed in 3D; ``"axial"``, ``"coronal"`` or ``"sagittal"`` fills what is closed
            in a slice of that plane.
    """

    name: ClassVar[str] = "fill-holes"
    plane: str | None = None

    def __post_init__(self) -> None:
        if self.plane is not None and self.plane not in PLANES:
            msg = f"{self.name}: there is no plane '{self.plane}'; {suggest(str(self.plane), PLANES)}"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class Opening(MaskStep):
    """Remove what no ball fits into: thin bridges and spikes.

    Attributes:
        mm: Radius of the ball.
    """

    name: ClassVar[str] = "opening"
    mm: float

    def __post_init__(self) -> None:
        check_positive(self.name, "mm", self.mm)


@dataclass(frozen=True, kw_only=True)
class Closing(MaskStep):
    """Fill what no ball fits into: cracks and dents.

    Attributes:
        mm: Radius of the ball.
    """

    name: ClassVar[str] = "closing"
    mm: float

    def __post_init__(self) -> None:
        check_positive(self.name, "mm", self.mm)


@dataclass(frozen=True, kw_only=True)
class Smooth(MaskStep):
    """Smooth the border: the zero level of the signed distance after a Gaussian.

    Attributes:
        mm: Standard deviation of the Gaussian.
    """

    name: ClassVar[str] = "smooth"
    mm: float

    def __post_init__(self) -> None:
        check_positive(self.name, "mm", self.mm)


@dataclass(frozen=True, kw_only=True)
class OnePerSide(MaskStep):
    """Of a paired organ, keep one connected part on each side, under that side's name."""

    name: ClassVar[str] = "one-per-side"


MASK_STEPS: Final[Mapping[str, type[MaskStep]]] = {
    kind.name: kind for kind in (KeepLargest, RemoveSmall, FillHoles, Opening, Closing, Smooth, OnePerSide)
}
"""Name -> kind of step."""

Kind = TypeVar("Kind")


def parse_step(content: Any) -> MaskStep:
    """A step from a recipe, from JSON or from the command line.

    Args:
        content: ``"keep-largest"``, ``"remove-small:ml=0.5"``, ``{"remove-small": {"ml": 0.5}}``, or a step.

    Raises:
        ValueError: If there is no such step or option, naming the nearest, or a number is out of its range.

    Example:
        >>> parse_step({"remove-small": {"ml": 0.5}}) == parse_step("remove-small:ml=0.5") == RemoveSmall(ml=0.5)
        True
    """
    return content if isinstance(content, MaskStep) else build_step(*split_step(content), MASK_STEPS)


def split_step(content: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of a step in any of its written forms.

    Raises:
        ValueError: If it has none of these forms.
    """
    if isinstance(content, str):
        name, colon, rest = content.strip().partition(":")
        options = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not key or not value:
                msg = f"the step '{content}' has the option '{part}'; expected key=value, such as remove-small:ml=0.5"
                raise ValueError(msg)
            options[key] = _read_value(value)
        if colon and not options:
            msg = f"the step '{content}' ends after the colon; expected options, such as remove-small:ml=0.5"
            raise ValueError(msg)
        return name.strip(), options
    if isinstance(content, Mapping) and len(content) == 1:
        ((name, options),) = content.items()
        if isinstance(options, Mapping) or options is None:
            return str(name), {str(key): value for key, value in (options or {}).items()}
    msg = f"{content!r} is no step; expected a name, or a name with options, such as {{remove-small: {{ml: 0.5}}}}"
    raise ValueError(msg)


def build_step(name: str, options: Mapping[str, Any], kinds: Mapping[str, type[Kind]]) -> Kind:
    """One of several kinds of frozen dataclass, by name.

    Raises:
        ValueError: If there is no such kind or option, an option is missing, or a number is out of its range.
    """
    if name not in kinds:
        msg = f"there is no step '{name}'; {suggest(name, kinds)}"
        raise ValueError(msg)
    kind = kinds[name]
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if unknown := [key for key in options if key not in known]:
        what = suggest(unknown[0], known) if known else "it has none."
        msg = f"{name} has no option '{unknown[0]}'; {what}"
        raise ValueError(msg)
    needed = [field.name for field in fields(kind) if field.default is MISSING]  # type: ignore[arg-type]
    if missing := [key for key in needed if key not in options]:
        msg = (
            f"{name} needs the option '{missing[0]}', such as {{{name}: {{{missing[0]}: 1}}}} or {name}:{missing[0]}=1"
        )
        raise ValueError(msg)
    return kind(**options)


def to_plain(step: MaskStep) -> str | dict[str, dict[str, Any]]:
    """The step as recipes and JSON hold it; what has its default is left out."""
    defaults = {field.name: field.default for field in fields(step)}
    options = {key: value for key, value in asdict(step).items() if value != defaults[key]}
    return {step.name: options} if options else step.name


def describe_step(step: MaskStep) -> str:
    """The step as the command line takes it.

    Example:
        >>> describe_step(RemoveSmall(ml=0.5)), describe_step(FillHoles())
        ('remove-small:ml=0.5', 'fill-holes')
    """
    plain = to_plain(step)
    if isinstance(plain, str):
        return plain
    ((name, options),) = plain.items()
    return f"{name}:{','.join(f'{key}={value:g}' if isinstance(value, float) else f'{key}={value}' for key, value in options.items())}"


def check_positive(name: str, key: str, value: Any) -> None:
    """Refuse what is no positive, finite number.

    Raises:
        ValueError: With the step and its option.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        msg = f"{name}: {key} is {value!r}; expected a number above 0"
        raise ValueError(msg)


StepField: TypeAlias = Annotated[InstanceOf[MaskStep], BeforeValidator(parse_step), PlainSerializer(to_plain)]
"""A step as a field of a pydantic model: plain in JSON, a dataclass in memory."""


def _read_value(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
