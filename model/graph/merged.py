"""The same scores by fewer and larger operations: what export does to a network before it is drawn as a graph.

A trained network is written as its paper reads. A graph that scores five hundred candidates on one core pays for every
operator and for every pass over memory besides the arithmetic, so some parts are exchanged here for others that compute
the same numbers; the exported graph is held to the network as it was trained, to 1e-5.

- `Lookup`, `Wide`: tables of one width stand in one tensor and are read by one gather, where they are small enough to
  be copied; an item table of ten million rows stays as it is, and is memory-mapped from the bundle.
- A wide head: its first layer in halves, each at once multiplied into the second layer's sum. What a half puts out
  still stands in the core's cache when it is read again, and onnxruntime multiplies 512 columns faster than 1024. (The
  MLP 1024-512-256 for 500 candidates: 8.5 ms whole, 7.9 ms in halves, 8.1 in quarters; the sums are the same. With
  products of bytes it is the other way round, so for model/graph/quantize.py the head stays whole.)
- BST's only block: features × candidates instead of candidates × features. The softmax over a head's history and the
  means of LayerNorm then run along whole rows of candidates, and no head is transposed. (500 candidates, d = 64,
  T = 20, one core: 1.34 ms as it is trained, half of it so; model/LOG.md, 2026-11-21.)
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.features.kinds import Side
from model.features.schema import Schema
from model.networks import bst, wdl
from model.networks.blocks import CANDIDATE_SIDES, Batch, Head, Lookup, Tables, no_features, numbers_seen, pooled

MERGED_BYTES = 32 * 2**20  # a table up to this size is copied into a merged one
HALVED_FROM = 1024  # outputs of a head's first layer
Column = tuple[Side, slice]  # where a feature's rows stand in a batch


def served(network: nn.Module, halves: bool = True) -> nn.Module:
    """`network` with its parts exchanged, in evaluation mode; weights that are not merged are shared with it."""
    merged = copy.copy(network)
    merged._modules = {name: _exchanged(part, halves) for name, part in network._modules.items() if part is not None}
    if isinstance(network, bst.Network) and len(network.blocks) == 1:  # with more, each candidate has its own history
        merged.blocks = nn.ModuleList([TransposedBlock(network.blocks[0])])
    return merged.eval()


def _exchanged(part: nn.Module, halves: bool) -> nn.Module:
    if type(part) is Lookup:
        return MergedLookup(part)
    if halves and type(part) is Head and HalvedHead.takes(part):
        return HalvedHead(part)
    return MergedWide(part) if type(part) is wdl.Wide else part


def _columns(schema: Schema, sides: Sequence[Side]) -> list[tuple[str, Column]]:
    return [(name, (side, place)) for side in sides for name, place in schema.places(side).items()]


def _rows(batch: Batch, columns: Sequence[Column]) -> Tensor:
    """(U, C, N) of these columns, or (U, N); neighbours within a side are cut out at once."""
    cuts: list[Column] = []
    for side, place in columns:
        if cuts and cuts[-1][0] == side and cuts[-1][1].stop == place.start:
            place = slice(cuts.pop()[1].start, place.stop)
        cuts.append((side, place))
    return torch.cat([batch[side][..., place] for side, place in cuts], -1)


class Merged(nn.Module):
    """Columns read from one table: rows of N tables of one width (..., N) -> (..., N·width)."""

    def __init__(self, tables: Sequence[nn.Embedding], columns: Sequence[Column]):
        super().__init__()
        self.columns = columns
        self.weight = nn.Parameter(torch.cat([table.weight.detach() for table in tables]), requires_grad=False)
        first = torch.tensor([0, *(len(table.weight) for table in tables[:-1])]).cumsum(0)
        places = torch.tensor([place.stop - place.start for _, place in columns])
        self.register_buffer("first_N", first.repeat_interleave(places))  # a multi's places read one table

    def forward(self, batch: Batch) -> Tensor:
        rows = _rows(batch, self.columns) + self.first_N
        return nn.functional.embedding(rows, self.weight).flatten(-2)

    @staticmethod
    def takes(table: nn.Embedding) -> bool:
        return table.weight.numel() * table.weight.element_size() <= MERGED_BYTES


class MergedLookup(Lookup):
    """`Lookup`, in which small single-valued features of one width that stand side by side are read at once."""

    def __init__(self, lookup: Lookup):
        nn.Module.__init__(self)
        self.schema, self.sequence = lookup.schema, lookup.sequence
        self.user, self.candidate = SideBySide(lookup, ("user",)), SideBySide(lookup, CANDIDATE_SIDES)

    def _others(self, batch: Batch, sides: Sequence[Side]) -> Tensor:
        side = self.user if sides == ("user",) else self.candidate
        return side(batch) if len(side.parts) else no_features(batch, sides)


class SideBySide(nn.Module):
    """The "other features" of some sides, (..., F), in `Lookup`'s order."""

    def __init__(self, lookup: Lookup, sides: Sequence[Side]):
        super().__init__()
        self.parts = nn.ModuleList()
        run: list[tuple[nn.Embedding, Column]] = []

        def close() -> None:
            if run:
                self.parts.append(Merged(*zip(*run, strict=True)))
                run.clear()

        for side in sides:
            for name, place in lookup.schema.places(side).items():
                if name not in lookup.other:
                    continue
                table = lookup.other[name]
                single = place.stop - place.start == 1
                if run and run[-1][0].embedding_dim != table.embedding_dim:
                    close()
                if single and Merged.takes(table):
                    run.append((table, (side, place)))
                else:
                    close()
                    self.parts.append(_Pooled(table, (side, place)))
            if any(feature.is_float and feature.seen for feature in lookup.schema.side(side)):
                close()
                self.parts.append(_Numbers(lookup.schema, side))
        close()

    def forward(self, batch: Batch) -> Tensor:
        return torch.cat([part(batch) for part in self.parts], -1)


class _Pooled(nn.Module):
    def __init__(self, table: nn.Embedding, column: Column):
        super().__init__()
        self.table, (self.side, self.place) = table, column

    def forward(self, batch: Batch) -> Tensor:
        return pooled(self.table, batch[self.side][..., self.place])


class _Numbers(nn.Module):
    def __init__(self, schema: Schema, side: Side):
        super().__init__()
        self.schema, self.side = schema, side

    def forward(self, batch: Batch) -> Tensor:
        return numbers_seen(batch, self.schema, self.side)[0]


class MergedWide(nn.Module):
    """`wdl.Wide`: the weights of all columns of user, and of candidate, read at once and added up."""

    def __init__(self, wide: wdl.Wide):
        super().__init__()
        self.user, self.candidate = (self._merged(wide, sides) for sides in (("user",), CANDIDATE_SIDES))
        self.large = Tables({n: w for n, w in wide.weight.items() if not Merged.takes(w)})
        self.columns = {n: column for n, column in _columns(wide.schema, wdl.SIDES) if n in self.large}

    @staticmethod
    def _merged(wide: wdl.Wide, sides: Sequence[Side]) -> Merged | None:
        found = [
            (wide.weight[name], column)
            for name, column in _columns(wide.schema, sides)
            if name in wide.weight and Merged.takes(wide.weight[name])
        ]
        return Merged(*zip(*found, strict=True)) if found else None

    def forward(self, batch: Batch) -> Tensor:
        logit = torch.zeros((), device=batch["gap"].device)
        if self.user is not None:
            logit = logit + self.user(batch).sum(-1, keepdim=True)
        if self.candidate is not None:
            logit = logit + self.candidate(batch).sum(-1)
        for name, (side, place) in self.columns.items():
            of_feature = self.large[name](batch[side][..., place])[..., 0].sum(-1)
            logit = logit + (of_feature.unsqueeze(1) if side == "user" else of_feature)
        return logit


class HalvedHead(nn.Module):
    """`blocks.Head`, its first layer's outputs in two halves."""

    def __init__(self, head: Head):
        super().__init__()
        _, _, second, *rest = head.rest  # activation, dropout, layer; then likewise
        self.of_user, self.bias, self.activation = head.of_user, head.of_candidate.bias, head.rest[0]
        self.first = nn.ParameterList(half.contiguous() for half in head.of_candidate.weight.detach().chunk(2))
        self.second = nn.ParameterList(half.t().contiguous() for half in second.weight.detach().chunk(2, 1))  # (K, N)
        self.second_bias = second.bias
        self.rest = nn.Sequential(*rest)

    @staticmethod
    def takes(head: Head) -> bool:
        elementwise = isinstance(head.rest[0], nn.LeakyReLU | nn.ReLU)
        return bool(elementwise and head.rest[2].in_features >= HALVED_FROM and head.rest[2].out_features > 1)

    def forward(self, user_UF: Tensor, candidate_UCF: Tensor) -> Tensor:
        users, candidates, _ = candidate_UCF.shape
        candidate_BF = candidate_UCF.flatten(0, 1)
        once_U1F = self.bias[None, None]
        if self.of_user is not None:
            once_U1F = (self.of_user(user_UF) + self.bias).unsqueeze(1)
        sum_BF = self.second_bias
        for first, second, once in zip(self.first, self.second, once_U1F.chunk(2, -1), strict=True):
            half_UCF = nn.functional.linear(candidate_BF, first).view(users, candidates, -1) + once
            sum_BF = torch.addmm(sum_BF, self.activation(half_UCF.flatten(0, 1)), second)
        return self.rest(sum_BF).view(users, candidates)


class TransposedBlock(nn.Module):
    """`bst.Block.target_row`, (1)-(6), on features × candidates. e: width of a head."""

    def __init__(self, block: bst.Block):
        super().__init__()
        self.heads = block.heads
        width = block.query.weight.shape[0]
        with torch.no_grad():
            own = torch.cat([block.query.weight * block.scale, block.key.weight, block.value.weight])
        self.own, self.history = nn.Parameter(own), nn.Parameter(own[width:].t().contiguous())
        self.joined, self.inner, self.outer = block.joined, block.inner, block.outer
        self.activation = block.activation
        self.attention_norm, self.forward_norm = _transposed(block.attention_norm), _transposed(block.forward_norm)

    def target_row(self, history_UTD: Tensor, target_UCD: Tensor, bias_UT: Tensor) -> Tensor:
        target_UDC = target_UCD.transpose(1, 2)
        key_UTHe, value_UTHe = (history_UTD @ self.history).unflatten(-1, (2, self.heads, -1)).unbind(2)
        query_UHeC, own_key_UHeC, own_value_UHeC = (self.own @ target_UDC).unflatten(1, (3, self.heads, -1)).unbind(1)

        score_UHTC = key_UTHe.transpose(1, 2) @ query_UHeC + bias_UT[:, None, :, None]
        own_UH1C = (query_UHeC * own_key_UHeC).sum(2, keepdim=True)
        top_UH1C = torch.maximum(score_UHTC.amax(2, keepdim=True), own_UH1C)
        score_UHTC, own_UH1C = (score_UHTC - top_UH1C).exp(), (own_UH1C - top_UH1C).exp()
        mixed_UHeC = value_UTHe.permute(0, 2, 3, 1) @ score_UHTC + own_value_UHeC * own_UH1C
        mixed_UHeC = mixed_UHeC / (score_UHTC.sum(2, keepdim=True) + own_UH1C)  # (1)

        attended_UDC = self.joined.weight @ mixed_UHeC.flatten(1, 2)  # (2)
        rows_UDC = self.attention_norm(target_UDC + attended_UDC)  # (5)
        inner_BF = self.activation(self.inner(rows_UDC.transpose(1, 2).flatten(0, 1)))
        outer_UDC = self.outer(inner_BF).view(target_UCD.shape).transpose(1, 2)
        return self.forward_norm(rows_UDC + outer_UDC).transpose(1, 2)  # (6)


def _transposed(norm: nn.Module) -> nn.Module:
    return TransposedNorm(norm) if isinstance(norm, nn.LayerNorm) else norm


class TransposedNorm(nn.Module):
    """LayerNorm over the features of (U, D, C). A mean is a product with 1/D: faster than onnxruntime's ReduceMean."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight_D1, self.bias_D1 = nn.Parameter(norm.weight[:, None]), nn.Parameter(norm.bias[:, None])
        self.epsilon = norm.eps
        self.register_buffer("mean_1D", torch.full((1, len(norm.weight)), 1 / len(norm.weight)))

    def forward(self, rows_UDC: Tensor) -> Tensor:
        rows_UDC = rows_UDC - self.mean_1D @ rows_UDC
        variance_U1C = self.mean_1D @ (rows_UDC * rows_UDC)
        return rows_UDC / (variance_U1C + self.epsilon).sqrt() * self.weight_D1 + self.bias_D1
