"""Every setting, declared once: type, default, bounds, help text, group and flag.

From here come the keys of hubpub.toml and their JSON Schema (hubpub.plan.config), the options of the
commands (hubpub.cli.options) and the tables of docs/configuration.md. Nothing heavy is imported, so that
`hubpub --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Le, MinLen

Attention = Literal["original", "split_einsum", "split_einsum_v2"]
Format = Literal["packages", "compiled", "zip"]
Bits = Literal[16, 8, 6, 4, 2, 1]
Target = Literal["macOS13", "iOS16", "macOS14", "iOS17", "macOS15", "iOS18"]
Group = Literal["Source", "Variants", "Compression", "Checks", "Release", "Connection", "Output"]


@dataclass(frozen=True)
class Setting:
    """How a setting is shown: its group and help text, and its flag where that is not its name with dashes."""

    group: Group
    text: str
    flag: str = ""
    metavar: str | None = None
    default: str = ""  # in words, where the value itself says too little

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(core), "description": self.text}


class Making:
    """What is made."""

    attention: Annotated[
        tuple[Attention, ...],
        Setting("Variants", "Attention implementations, one variant each.", metavar="NAME"),
        MinLen(1),
    ] = ("original", "split_einsum_v2")
    bits: Annotated[
        Bits, Setting("Compression", "Bits per weight of UNet and text encoder (16: not compressed).", metavar="BITS")
    ] = 6
    formats: Annotated[
        tuple[Format, ...],
        Setting("Variants", "Formats that are published.", flag="format", metavar="NAME"),
        MinLen(1),
    ] = ("packages", "compiled", "zip")
    verify: Annotated[
        Literal["numeric", "full", "weights", "off"] | None,
        Setting(
            "Checks",
            "Check before archives are made: numeric runs every component at a small latent against the source, "
            "full at the published size, weights reads every weight back.",
            metavar="CHECK",
            default="numeric where torch, diffusers and transformers are installed, else weights",
        ),
    ] = None
    floor: Annotated[
        Mapping[str, float],
        Setting("Checks", "Lowest accepted PSNR in dB by component, for numeric and full.", metavar="COMPONENT=DB"),
    ] = {}
    latent_height: Annotated[
        int | None,
        Setting("Variants", "Latent height (image height / 8).", default="the UNet's sample_size"),
        Gt(0),
    ] = None
    latent_width: Annotated[
        int | None, Setting("Variants", "Latent width (image width / 8).", default="the UNet's sample_size"), Gt(0)
    ] = None
    batch_one: Annotated[bool, Setting("Variants", "UNet for batch 1 instead of 2 (guidance).")] = False
    deployment_target: Annotated[
        Target, Setting("Variants", "Oldest system that loads the models.", metavar="SYSTEM")
    ] = "macOS13"
    safety_checker: Annotated[bool, Setting("Variants", "Convert the safety checker where the source has one.")] = True
    chunk_unet: Annotated[
        bool, Setting("Variants", "Cut the UNet in two, for iPhones that cannot load it whole at 16 bits.")
    ] = False
    refiner: Annotated[
        str | None, Setting("Source", "SDXL refiner to publish with the model: a source of its own.", metavar="SOURCE")
    ] = None
    controlnet: Annotated[
        tuple[str, ...], Setting("Source", "ControlNet to publish with the model.", metavar="SOURCE")
    ] = ()
    vae: Annotated[
        str | None,
        Setting("Source", "VAE to publish in place of the model's: a folder, repo or weight file.", metavar="SOURCE"),
    ] = None
    lora: Annotated[
        tuple[str, ...],
        Setting("Source", "LoRA to merge into the model, with its scale (1 if none).", metavar="SOURCE[@SCALE]"),
    ] = ()
    weights_variant: Annotated[
        str | None,
        Setting(
            "Source",
            "Variant of the weight files to read, such as fp16, as diffusers' variant=.",
            metavar="NAME",
            default="the plain files",
        ),
    ] = None
    prediction_type: Annotated[
        Literal["epsilon", "v_prediction"] | None,
        Setting(
            "Source",
            "What the UNet predicts, where a single file does not say it.",
            metavar="TYPE",
            default="what the source says",
        ),
    ] = None
    guidance_embedding: Annotated[
        float | None,
        Setting(
            "Variants",
            "Guidance scale built into a UNet that was distilled for one (LCM).",
            metavar="W",
            default="8.0",
        ),
        Ge(1),
    ] = None
    license: Annotated[
        str | None, Setting("Release", "Licence id for the card, where the source names none.", metavar="ID")
    ] = None
    template: Annotated[str | None, Setting("Release", "Card template of your own (Jinja2).", metavar="FILE")] = None
    prompts: Annotated[
        tuple[str, ...],
        Setting("Release", "Draw this and publish the picture with the card.", flag="prompt", metavar="TEXT"),
    ] = ()
    prompt_steps: Annotated[
        int | None,
        Setting("Release", "Scheduler steps of each picture.", default="what the source's card draws with, else 20"),
        Gt(0),
        Le(200),
    ] = None
    prompt_guidance: Annotated[
        float | None,
        Setting("Release", "Guidance scale of each picture.", default="what the source's card draws with, else 7.5"),
        Ge(0),
    ] = None
    compiler: Annotated[
        Literal["auto", "portable", "apple"],
        Setting("Variants", "Compiler of the bundles (apple needs Xcode).", metavar="NAME"),
    ] = "auto"


class Delivering:
    """How it is delivered: not a part of what is made, so not a part of a plan."""

    private: Annotated[bool, Setting("Release", "Make a new repo private.")] = False
    create_pr: Annotated[bool, Setting("Release", "Open a pull request instead of committing.")] = False
    branch: Annotated[str | None, Setting("Release", "Commit to this branch.", default="main")] = None
    tag: Annotated[str | None, Setting("Release", "Tag the commit.")] = None
    prune: Annotated[bool, Setting("Release", "Remove hubpub's variants that the settings do not name.")] = False
    sign: Annotated[
        bool, Setting("Release", "Sign the manifest with sigstore, as the user who runs this; that is public.")
    ] = False


class Naming:
    """Where a model comes from and goes."""

    source: Annotated[
        str,
        Setting(
            "Source",
            "Folder, weight file, Hub repo id (ORG/NAME or ORG/NAME@REVISION), hf:ORG/NAME[/FILE] or git+URL[#FILE].",
        ),
    ]
    to: Annotated[
        str | None,
        Setting(
            "Release",
            "Destination OWNER/NAME, or file:///FOLDER.",
            metavar="REPO",
            default="<you>/coreml-<name>-palettized",
        ),
    ] = None
    name: Annotated[str | None, Setting("Source", "Name of a local source.", metavar="ORG/NAME")] = None
    revision: Annotated[str | None, Setting("Source", "Branch, tag or commit of the source.")] = None


class Running:
    """How much may run at once."""

    jobs: Annotated[int | None, Setting("Output", "Steps at once.", default="number of cores, at most 4"), Ge(1)] = None
    memory: Annotated[
        float | None,
        Setting("Output", "GB that steps may use together.", metavar="GB", default="80 % of what is free"),
        Ge(0.1),
    ] = None


class Fetching:
    """What `hubpub fetch` brings."""

    variant: Annotated[str, Setting("Source", "Variant to fetch.", metavar="ATTENTION/FORMAT")] = "original/packages"
    revision: Annotated[str | None, Setting("Source", "Branch, tag or commit of the repo.", default="main")] = None
    dest: Annotated[
        str | None,
        Setting("Output", "Folder to write into.", metavar="DIR", default="models/<repo>_<variant>"),
    ] = None
    zip: Annotated[bool, Setting("Source", "Download the archive and unpack it.")] = False
    verify_signature: Annotated[bool, Setting("Checks", "Demand a valid signature of the manifest.")] = False
    identity: Annotated[
        str | None, Setting("Checks", "Required signer: an e-mail address or a workflow's address.")
    ] = None
    issuer: Annotated[str | None, Setting("Checks", "Required OIDC issuer that vouched for the signer.")] = None


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A setting as it was declared: its key, its type, its default (None: required), and how it is shown."""

    name: str
    type: Any
    default: Any
    least: Any
    shown: Setting

    @property
    def flag(self) -> str:
        """The long name of the option, without dashes in front."""
        return self.shown.flag or self.name.replace("_", "-")


@cache
def declared(*groups: type) -> dict[str, Declared]:
    """The settings of the classes above, by key."""
    settings = {}
    for group in groups:
        for name, hint in get_type_hints(group, include_extras=True).items():
            shown = next(one for one in hint.__metadata__ if isinstance(one, Setting))
            default = getattr(group, name, None)
            least = next((one.ge for one in hint.__metadata__ if isinstance(one, Ge)), None)
            settings[name] = Declared(name=name, type=hint.__origin__, default=default, least=least, shown=shown)
    return settings
