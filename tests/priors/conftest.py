"""A language model whose every probability is written down in a table, and which remembers what it was shown."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cib_rl.plugin import RewardContext


class TableModel(nn.Module):
    """P(next | previous) from a table (V, V), uniform where the test writes nothing. `seen`: all ids it ever read."""

    def __init__(self, size, bos=None, window=1000):
        super().__init__()
        config = SimpleNamespace(bos_token_id=bos, max_position_embeddings=window, model_type="table")
        config.get_text_config = lambda: config
        self.config = config
        self.base_model = Body(size)
        self.head = nn.Linear(size, size, bias=False)
        self.embedding = nn.Embedding(size, 1)
        with torch.no_grad():
            self.head.weight.fill_(0.0)

    def write(self, previous, probabilities):
        """Probabilities of some next ids; the others share the rest."""
        size = self.head.weight.shape[0]
        rest = (1 - sum(probabilities.values())) / (size - len(probabilities))
        with torch.no_grad():
            self.head.weight[:, previous] = torch.log(torch.full((size,), max(rest, 1e-30)))
            for i, p in probabilities.items():
                self.head.weight[i, previous] = torch.log(torch.tensor(p))

    @property
    def seen(self):
        return self.base_model.seen

    def get_output_embeddings(self):
        return self.head

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.head(self.base_model(input_ids).last_hidden_state))


class Body(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size, self.seen = size, []

    def forward(self, input_ids, use_cache=False):
        self.seen += input_ids.flatten().tolist()
        return SimpleNamespace(last_hidden_state=nn.functional.one_hot(input_ids, self.size).float())


@pytest.fixture
def table_model(tiny_tokenizer):
    """Over the tiny tokenizer's vocabulary."""
    return TableModel(len(tiny_tokenizer))


@pytest.fixture
def context(tiny_tokenizer):
    return RewardContext(tokenizer=tiny_tokenizer, device=torch.device("cpu"), max_completion_length=64)
