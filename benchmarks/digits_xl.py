"""Trains a small model with the shape of Stable Diffusion XL on digits: `nice -n 19 python -m benchmarks.digits_xl`.

Two text encoders side by side, of which the UNet takes what their last layers take, and the second one's projected
pooled output; a UNet that is told the picture's size and has no attention at its highest level. The VAE, the digits and
the way of training are the demo's (train_digits.py). State is in build/digits_xl; a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks import digits_networks, digits_source, digits_tokenizer, train_digits
from hubpub.runtime.tokenizers import read_tokenizer

WORK = train_digits.ROOT / "build" / "digits_xl"
OUT = Path(__file__).resolve().parent / "digits_xl_source"
WIDTHS = (64, 32)  # of the two text encoders
IDS, IDS_WIDTH = 6, 16  # numbers that the UNet is told, and channels for each
SIDE = 4 * digits_networks.LATENT_SIZE
PAD = ("<|endoftext|>", "!")  # what each tokenizer pads with, as in SDXL
PARTS = digits_source.PARTS | {
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}
TEXT_STEPS = 400
UNET_STEPS = 1300


def text_encoder(number: int, vocabulary: int) -> Any:
    """One of the two: CLIP, two layers; the second one projects its pooled output."""
    width = WIDTHS[number]
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act=("quick_gelu", "gelu")[number],
        max_position_embeddings=digits_networks.TEXT_LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=(vocabulary - 1, 0)[number],
    )
    return (CLIPTextModel, CLIPTextModelWithProjection)[number](config)


def unet() -> UNet2DConditionModel:
    """Three levels, 32×32, 16×16 and 8×8; attention at the lower two, with one and two transformer blocks."""
    return UNet2DConditionModel(
        sample_size=digits_networks.LATENT_SIZE,
        in_channels=digits_networks.LATENT_CHANNELS,
        out_channels=digits_networks.LATENT_CHANNELS,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[16, 40, 48],
        layers_per_block=1,
        transformer_layers_per_block=[1, 1, 2],
        attention_head_dim=[1, 2, 4],
        cross_attention_dim=sum(WIDTHS),
        addition_embed_type="text_time",
        addition_time_embed_dim=IDS_WIDTH,
        projection_class_embeddings_input_dim=WIDTHS[1] + IDS * IDS_WIDTH,
        use_linear_projection=True,
        norm_num_groups=8,
    )


class Told(torch.nn.Module):  # type: ignore[misc]
    """The UNet as train_unet calls it: its text has one row more, the pooled text, and the picture's size is known."""

    def __init__(self, network: UNet2DConditionModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, noised: torch.Tensor, t: torch.Tensor, heard: torch.Tensor, **more: Any) -> Any:
        told = {
            "text_embeds": heard[:, -1, : WIDTHS[1]],
            "time_ids": torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]], dtype=heard.dtype).repeat(len(heard), 1),
        }
        return self.network(noised, t, heard[:, :-1], added_cond_kwargs=told, **more)


def demo_weights(part: str) -> Any:
    """The tensors of one of the demo's networks."""
    return load_file(train_digits.SOURCE / part / "diffusion_pytorch_model.safetensors")


def start_from_demo(network: UNet2DConditionModel) -> None:
    """Let a fresh UNet begin with the demo's tensors where the shapes allow it, and at first not hear what it is told.

    These are the highest level's convolutions and the timestep's embedding. With them the loss is lower after 100
    steps than without them after 200.
    """
    digits_networks.start_from_identity(network)
    trained = demo_weights("unet")
    own = network.state_dict()
    same = {name: value for name, value in trained.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict(same, strict=False)
    torch.nn.init.zeros_(network.add_embedding.linear_2.weight)
    torch.nn.init.zeros_(network.add_embedding.linear_2.bias)


def main() -> None:
    """Train what is not trained yet, then write the source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the source repo to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--unet-steps", type=int, default=UNET_STEPS, help="0 writes what the checkpoint holds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    vae = digits_networks.vae().eval()
    vae.load_state_dict(demo_weights("vae"))
    latents, labels = train_digits.encode_digits(args.work / "latents.pt", vae)
    digits_tokenizer.write(args.work / "tokenizer", digits_source.corpus())
    tokens = [_tokens(args.work / "tokenizer", pad) for pad in PAD]
    encoders = [train_text_encoder(args.work / f"text_encoder_{n}.pt", n, tokens[n]) for n in (0, 1)]
    with torch.no_grad():
        words = heard(encoders, tokens)
    told = Told(unet())
    start_from_demo(told.network)
    trained = train_digits.train_unet(
        args.work / "unet.pt", latents, labels, words, steps=args.unet_steps, seed=0, unet=told
    )
    size = write(args.out, vae=vae, encoders=encoders, network=trained.network)
    print(f"{args.out}: {size:,} bytes")


def _tokens(folder: Path, pad: str) -> torch.Tensor:
    """(11, captions, 77): every digit's captions, the last row for the empty prompt."""
    tokenizer = read_tokenizer(folder, pad=pad)
    texts = [[*row] for row in train_digits.captions_of_all()]
    return torch.tensor([[tokenizer(text, length=digits_networks.TEXT_LENGTH) for text in row] for row in texts])


def train_text_encoder(checkpoint: Path, number: int, tokens: torch.Tensor) -> Any:
    """Trained to give each digit's code from the end of its captions on: before the last layer, and pooled."""
    torch.manual_seed(number)
    encoder = text_encoder(number, int(tokens.max()) + 1)
    if checkpoint.is_file():
        encoder.load_state_dict(torch.load(checkpoint))
        return encoder.eval()
    codes = train_digits.codes_of_all(WIDTHS[number])
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=train_digits.TEXT_RATE, weight_decay=1e-3)
    for step in range(TEXT_STEPS):
        random = torch.Generator().manual_seed(900_000 + step)
        labels = torch.randint(11, (train_digits.TEXT_BATCH,), generator=random)
        ids = tokens[labels, torch.randint(tokens.shape[1], (train_digits.TEXT_BATCH,), generator=random)]
        answer = encoder(ids, output_hidden_states=True)
        ended = (ids == ids.max()).cumsum(dim=1) > 0
        error = (answer.hidden_states[-2] - codes[labels][:, None]).square().mean(dim=-1)
        pooled = answer.text_embeds if number else answer.pooler_output
        loss = error[ended].mean() + (pooled - codes[labels]).square().mean()
        train_digits.set_rate(optimizer, step, TEXT_STEPS)
        train_digits.descend(optimizer, loss, encoder.parameters())
        if (step + 1) % 50 == 0:
            print(f"text {number} {step:5d}  {loss.item():.4f}", flush=True)
    torch.save(encoder.state_dict(), checkpoint)
    return encoder.eval()


def heard(encoders: list[Any], tokens: list[torch.Tensor]) -> torch.Tensor:
    """(11, captions, 78, 96): both encoders' hidden states side by side, and a row that begins with the pooled text."""
    rows = []
    for one, other in zip(*tokens, strict=True):
        answers = [encoder(ids, output_hidden_states=True) for encoder, ids in zip(encoders, (one, other), strict=True)]
        states = torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1)
        pooled = torch.nn.functional.pad(answers[1].text_embeds, (0, WIDTHS[0]))
        rows.append(torch.cat([states, pooled[:, None]], dim=1))
    return torch.stack(rows)


def write(folder: Path, *, vae: Any, encoders: list[Any], network: Any) -> int:
    """Write the repo, in place of what its subfolders held; returns its size in bytes."""
    vae.register_to_config(force_upcast=True)
    networks = {"vae": vae, "unet": network, "text_encoder": encoders[0], "text_encoder_2": encoders[1]}
    index: dict[str, Any] = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": False}
    index |= {name: list(part) for name, part in PARTS.items() if name != "safety_checker"}
    digits_source.write_parts(folder, networks, index)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / "tokenizer_2" / file
        values = json.loads(path.read_text(encoding="utf-8")) | {"pad_token": PAD[1]}
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
