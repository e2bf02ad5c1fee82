"""Non-maximum suppression and classification.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there).
"""

from __future__ import annotations

from typing import Any

import torch

from hubpub.runtime.ops.table import Table, Tensor, Tensors, wide


def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    opset: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> Tensors:
    """Boxes in descending order of their best class score, without boxes that overlap a better one too much.

    Until iOS 16: boxes [n, B, 4] (centre x, y, width, height), scores [n, B, K], score_threshold; gives boxes,
    scores, indices [n, max_boxes] and their number [n]. Since 17: boxes [n, 4, B], scores [n, K, B], no
    threshold and no number. Unused places hold 0 (index: -1); if no box passes the threshold, the best one
    is kept. Reference: iOS15.tensor_operation.non_maximum_suppression,
    iOS17.tensor_operation.non_maximum_suppression
    """
    if opset >= 17:
        boxes, scores = boxes.mT, scores.mT
    n = boxes.shape[0]
    out_boxes = boxes.new_zeros((n, max_boxes, 4))
    out_scores = scores.new_zeros((n, max_boxes, scores.shape[2]))
    out_indices = torch.full((n, max_boxes), -1, device=boxes.device)
    out_counts = torch.zeros(n, dtype=torch.int64, device=boxes.device)
    for b in range(n):
        chosen = _chosen(boxes[b], scores[b], iou_threshold, score_threshold, per_class=per_class_suppression)
        chosen = chosen[:max_boxes]
        places = torch.tensor(chosen, device=boxes.device)
        out_boxes[b, : len(chosen)] = boxes[b, places]
        out_scores[b, : len(chosen)] = scores[b, places]
        out_indices[b, : len(chosen)] = places
        out_counts[b] = len(chosen)
    if opset >= 17:
        return out_boxes.mT, out_scores.mT, out_indices
    return out_boxes, out_scores, out_indices, out_counts


def _chosen(boxes: Tensor, scores: Tensor, limit: float, threshold: float | None, *, per_class: bool) -> list[int]:
    best, classes = scores.max(-1)
    order = torch.argsort(best, descending=True, stable=True).tolist()
    overlap = _overlap(boxes).cpu()
    kept: list[int] = []
    for i in order:
        if threshold is not None and float(best[i]) <= threshold:
            break
        rivals = [j for j in kept if not per_class or classes[j] == classes[i]]
        if all(float(overlap[i, j]) <= limit for j in rivals):
            kept.append(i)
    return kept or order[:1]


def _overlap(boxes: Tensor) -> Tensor:
    """Intersection over union of each pair."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    low, high = centre - size / 2, centre + size / 2
    sides = torch.minimum(high[:, None], high[None]) - torch.maximum(low[:, None], low[None])
    common = sides.clamp(min=0).prod(-1)
    area = size.prod(-1)
    return common / (area[:, None] + area[None] - common)


def classify(probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """The class of the largest probability, and every class's probability. iOS 15.

    Reference: iOS15.classify.classify
    """
    labels = [label.item() if hasattr(label, "item") else label for label in classes]
    values = probabilities.reshape(-1).tolist()
    return labels[values.index(max(values))], dict(zip(labels, values, strict=True))


OPS: Table = {
    "classify": wide(classify),
    "non_maximum_suppression": wide(non_maximum_suppression),
}
