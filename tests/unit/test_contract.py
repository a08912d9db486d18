"""A network of somebody's own is held to the contract before it is trained: what breaks it is named."""

import pytest
import torch
from torch import Tensor, nn

from model import networks
from model.networks.blocks import Batch, Head, Lookup, RankingNetwork
from model.prepared.loader import Prepared
from model.training.contract import ContractError, check


class Own(RankingNetwork):
    """A plain one: the mean of what was clicked."""

    def __init__(self, data: Prepared):
        super().__init__()
        torch.manual_seed(0)
        self.embed = Lookup(data.schema, data.rows)
        self.head = Head(self.embed.width_user_F, self.embed.width_other_F + 2 * self.embed.width_D, (8,), 0.0)

    def summary_UD(self, history_UTD: Tensor, mask_UT: Tensor) -> Tensor:
        return (history_UTD * mask_UT.unsqueeze(-1)).sum(1) / mask_UT.sum(1, keepdim=True).clamp(min=1)

    def logits_UC(self, logits_UC: Tensor) -> Tensor:
        return logits_UC

    def forward(self, batch: Batch) -> Tensor:
        e = self.embed(batch)
        summary_UCD = self.summary_UD(e.history_UTD, e.mask_UT).unsqueeze(1).expand_as(e.candidate_UCD)
        return self.logits_UC(self.head(e.user_UF, torch.cat([e.other_UCF, e.candidate_UCD, summary_UCD], -1)))


class Recurrent(Own):
    """Naive: its last state is the one after the padding."""

    def __init__(self, data: Prepared):
        super().__init__(data)
        self.gru = nn.GRU(self.embed.width_D, self.embed.width_D, batch_first=True)

    def summary_UD(self, history_UTD: Tensor, mask_UT: Tensor) -> Tensor:
        return self.gru(history_UTD)[1][0]


class Unmasked(Own):
    def summary_UD(self, history_UTD: Tensor, mask_UT: Tensor) -> Tensor:
        return history_UTD.mean(1)


class Normalised(Own):
    """Over the candidates: what is ranked beside an item moves its score."""

    def logits_UC(self, logits_UC: Tensor) -> Tensor:
        return logits_UC - logits_UC.mean(1, keepdim=True)


class Placed(Own):
    def logits_UC(self, logits_UC: Tensor) -> Tensor:
        return logits_UC + torch.arange(logits_UC.shape[1])


class OneForAll(Own):
    def logits_UC(self, logits_UC: Tensor) -> Tensor:
        return logits_UC[:, :1]


class Broken(Own):
    def logits_UC(self, logits_UC: Tensor) -> Tensor:
        return logits_UC / 0


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Recurrent, "more slots of padding"),
        (Unmasked, "more slots of padding"),
        (Normalised, "a candidate alone, and logits differ by .*docs/networks.md"),
        (Placed, "candidates in another order"),
        (OneForAll, r"shape \(3, 1\), \(U, C\) = \(3, 4\) is needed"),
        (Broken, "no finite number"),
    ],
)
def test_what_breaks_the_contract_is_named(small_data: Prepared, kind: type[Own], says: str) -> None:
    with pytest.raises(ContractError, match=f"network test_contract: .*{says}"):
        check(kind(small_data), small_data)


def test_a_sound_network_passes_and_stays_as_it_was(small_data: Prepared) -> None:
    network = Own(small_data).train()
    state = torch.get_rng_state()
    check(network, small_data)
    assert network.training and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", networks.names())
def test_every_network_of_the_project_passes(small_data: Prepared, name: str) -> None:
    torch.manual_seed(0)
    check(networks.build(name, small_data.schema, small_data.rows, {}), small_data)
