"""The CLIP towers: the text encoder, and the vision tower that the safety checker looks with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Config = Mapping[str, Any]

# What masks a score; large enough for a softmax to give exactly zero, small enough for fp16.
_MASKED = -1e4


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class SelfAttention(nn.Module):
    """Multi-head attention of (B, S, C) to itself; `mask` (1, 1, S, S) is added to the scores."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            project(x).reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two linears around the activation."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config["hidden_act"]]
        self.fc1 = nn.Linear(config["hidden_size"], config["intermediate_size"])
        self.fc2 = nn.Linear(config["intermediate_size"], config["hidden_size"])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Attention and MLP, each after a layer norm and added to its input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.self_attn = SelfAttention(config)
        self.layer_norm1 = nn.LayerNorm(width, eps)
        self.mlp = Mlp(config)
        self.layer_norm2 = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Layers(nn.Module):
    """The stack of layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) for _ in range(config["num_hidden_layers"])])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class TextEmbeddings(nn.Module):
    """Token and position embeddings, added."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.position_embedding = nn.Embedding(config["max_position_embeddings"], config["hidden_size"])

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight.unsqueeze(0)


class TextEncoder(nn.Module):
    """input_ids (1, T), whole numbers as fp32 → last_hidden_state (1, T, C) and its row at the end token (1, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.eos = config["eos_token_id"]
        self.embeddings = TextEmbeddings(config)
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])
        length = config["max_position_embeddings"]
        mask = torch.full((1, 1, length, length), _MASKED, device="cpu").triu(
            1
        )  # no weight: real on the meta device too
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        ids = input_ids.to(torch.int32)
        hidden = self.final_layer_norm(self.encoder(self.embeddings(ids), self.mask))
        # The end token is the largest one, unless the config names it; either way its first place counts.
        place = (ids if self.eos is None else (ids == self.eos).to(torch.int32)).argmax(dim=1)
        return hidden, hidden[torch.arange(1), place]


class VisionEmbeddings(nn.Module):
    """(B, 3, S, S) → one class token and the patches, with their places (B, 1 + patches, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config["image_size"] // patch) ** 2 + 1, width)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embedding(image).flatten(2).transpose(1, 2)
        first = self.class_embedding.reshape(1, 1, -1).expand(image.shape[0], 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight.unsqueeze(0)


class VisionTower(nn.Module):
    """clip_input (B, 3, S, S) → the pooled output (B, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps)  # spelled so in the source's weights
        self.encoder = Layers(config)
        self.post_layernorm = nn.LayerNorm(width, eps)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(image)))
        return self.post_layernorm(hidden[:, 0])
