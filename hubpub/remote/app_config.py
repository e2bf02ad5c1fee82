"""What an app bundles to download a variant by itself: a small JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hubpub.errors import FetchError, NoSuchVariant
from hubpub.plan.variant import MINIMUM_OS
from hubpub.release.card import ATTENTION_USE
from hubpub.release.release import RemoteState
from hubpub.remote import offers


class AppConfig(BaseModel):
    """What an app must know of a model before it has downloaded it; what a repo does not tell is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = Field(1, description="Version of this format.")
    repo: str = Field(description="OWNER/NAME on the Hub.")
    commit: str = Field(description="The commit that `url` belongs to.")
    variant: str = Field(description="The archive's name in `hubpub variants`.")
    attention: str = Field(description="original, split_einsum or split_einsum_v2.")
    url: str = Field(description="Address of the archive at that commit: its bytes never change.")
    size: int = Field(description="Bytes of the archive.")
    sha256: str = Field(description="SHA-256 of the archive, in hexadecimal: compare before unpacking.")
    folder: str = Field(description="The one folder that the archive unpacks to; it holds the models.")
    compute_units: Literal["cpuAndGPU", "cpuAndNeuralEngine"] = Field(
        description="Case of Core ML's MLComputeUnits that the attention is made for."
    )
    minimum_os: tuple[str, ...] | None = Field(None, description="Oldest systems that load the models.")
    bits: int | None = Field(None, description="Bits per weight of UNet and text encoder; 16 is uncompressed.")
    image: tuple[int, int] | None = Field(None, description="Height and width of pictures, in pixels.")
    batch: int | None = Field(None, description="Rows of the UNet's inputs: 2 for guidance.")
    prediction_type: str | None = Field(None, description="For the app's scheduler: epsilon or v_prediction.")
    scaling_factor: float | None = Field(None, description="Divide latents by it before the VAE decoder.")
    swift_pipeline: str | None = Field(None, description="Class of Apple's Swift package that loads it.")
    scheduler: str | None = Field(None, description="The source's scheduler class of diffusers, without `Scheduler`.")
    steps: int | None = Field(None, description="Steps that the source's card draws with, or usual ones.")
    guidance: float | None = Field(None, description="Guidance scale of the same; 0 and 1 are none.")
    guidance_embedding: float | None = Field(
        None, description="Guidance scale built into the UNet: draw with guidance 1 and batch row 0 unused."
    )
    controlnets: tuple[str, ...] | None = Field(None, description="ControlNets in the folder `controlnet`, by name.")
    refiner: bool | None = Field(None, description="Whether an SDXL refiner is there (UnetRefiner).")


def app_config(state: RemoteState, variant: str, *, endpoint: str) -> AppConfig:
    """What an app needs to download the archive of a variant's attention from a repo at `endpoint`.

    Raises NoSuchVariant where the repo has no such archive, FetchError where it cannot be described.
    """
    name = offers.archive_of(variant)
    try:
        offer = offers.select(state, name).offer
    except NoSuchVariant as error:
        raise NoSuchVariant(
            f"An app downloads an archive, and {state.repo_id} has none for {variant}.",
            hint="Choose another --variant, or publish with `--format zip` as well.",
        ) from error
    (file,) = offer.files
    attention = name.rpartition("/")[0]
    if attention not in ATTENTION_USE or file.sha256 is None or state.commit is None:
        raise FetchError(
            f"{state.repo_id} does not tell the attention and the SHA-256 of {file.path_in_repo}.",
            hint="`hubpub audit` says what else is unusual there.",
        )
    manifest = state.manifest or {}
    stored = manifest.get("settings", {})
    settings = {key: stored.get(key) for key in ("bits", "image", "batch")}
    settings |= {
        key: manifest.get(key) for key in ("prediction_type", "scaling_factor", "scheduler", "guidance_embedding")
    }
    settings |= {key: _table(manifest, "drawing").get(key) for key in ("steps", "guidance")}
    apps = _table(manifest, "apps")
    controlnets = apps.get("controlnets")
    settings |= {
        "swift_pipeline": apps.get("swift_pipeline"),
        "controlnets": list(controlnets) if isinstance(controlnets, Mapping) else None,
        "refiner": apps["refiner"] is not None if "refiner" in apps else None,
    }
    try:
        return AppConfig.model_validate(
            {
                **settings,
                "repo": state.repo_id,
                "commit": state.commit,
                "variant": name,
                "attention": attention,
                "url": f"{endpoint}/{state.repo_id}/resolve/{state.commit}/{quote(file.path_in_repo)}",
                "size": file.size,
                "sha256": file.sha256,
                "folder": file.path.removesuffix(".zip"),
                "compute_units": ATTENTION_USE[attention][2],
                "minimum_os": minimum_os(manifest),
            }
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        raise FetchError(
            f"hubpub.json of {state.repo_id} has {wrong['loc'][0]} = {wrong['input']!r}.",
            hint="Tell the repo's owner to publish again.",
        ) from None


def _table(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of a manifest; empty in one of another version."""
    value = manifest.get(key)
    return value if isinstance(value, Mapping) else {}


def minimum_os(manifest: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The oldest systems that load a release, by its specification version."""
    version = manifest.get("settings", {}).get("specification_version")
    return MINIMUM_OS.get(version) if isinstance(version, int) else None
