"""The batches of the loop are those of a plain DataLoader, to the last bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import Dataset

from clip_adapt.data.items import Item
from clip_adapt.data.task import Task
from clip_adapt.inputs import batches
from clip_adapt.inputs.batches import Batches
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.method import finding
from clip_adapt.training.examples import Examples
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe, make_optimizer, make_schedule

CPU = torch.device("cpu")


@pytest.fixture
def support(tiny_backbone):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(23, 3, tiny_backbone.embed_dim, generator=generator)  # three views an image
    return Examples(F.normalize(z, dim=-1), torch.arange(23) % 3)


def generator():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_rows_looked_up_are_the_loaders_batches(support, drop_last, fits, monkeypatch):
    monkeypatch.setattr(batches, "fits", lambda size, device: fits)
    recipe = Recipe(epochs=3, batch_size=5, drop_last=drop_last)
    loader = support.loader(recipe, generator())
    order = support.order(recipe, generator())
    ours = Batches(support.inputs, support.labels, CPU)
    assert len(order) == len(loader) == (4 if drop_last else 5)
    for epoch in range(3):
        for rows, (inputs, labels) in zip(order, loader, strict=True):
            assert all(map(torch.equal, ours.at(rows), (inputs, labels)))
            one = Batches(support.inputs, support.labels, CPU)
            one.set_epoch(epoch + 3)
            assert torch.equal(one.inputs_at(rows), inputs[:, epoch : epoch + 1])


@pytest.mark.parametrize("name", ["adapter", "taskres", "coop"])
def test_training_equals_a_loop_over_a_plain_loader_to_the_last_bit(name, support, tiny_backbone):
    recipe = Recipe(epochs=4, batch_size=5, lr=0.05)
    ours, plain = (
        finding.find_method(name).cls(tiny_backbone, Task(("a", "b", "c"))) for _ in range(2)
    )
    train(ours, support, recipe)
    loader = support.loader(recipe, torch.Generator().manual_seed(recipe.seed))
    optimizer, schedule = make_optimizer(plain, recipe), make_schedule(recipe, len(loader))
    for epoch in range(recipe.epochs):
        for inputs, labels in loader:
            optimizer.param_groups[0]["lr"] = schedule.at(epoch)
            plain.loss(plain(inputs[:, epoch % 3]), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[key])


@pytest.mark.parametrize("count", [23, 20])
def test_two_processes_share_the_batches_of_one_in_their_order(support, count):
    recipe = Recipe(epochs=1, batch_size=5)
    examples = Examples(support.inputs[:count], support.labels[:count])

    def rows(**processes):
        order = examples.order(recipe, generator())
        made = prepare_data_loader(order, put_on_device=False, **processes)
        return [batch.tolist() for batch in made]

    alone = rows()
    first, second = (rows(num_processes=2, process_index=i) for i in (0, 1))
    assert len(first) == len(second) == (len(alone) + 1) // 2
    turns = [batch for pair in zip(first, second, strict=True) for batch in pair]
    full = [batch for batch in alone if len(batch) == 5]
    assert turns[: len(full)] == full
    assert sorted(alone[-1]) == sorted(turns[len(alone) - 1][: len(alone[-1])])


class Numbered(Dataset):
    """A data set of somebody else's: it knows no batches."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((3, 2, 2), float(index)), 7


def test_a_data_set_without_batches_is_stacked():
    made, labels = Batches(Numbered(), torch.arange(4), CPU).at(torch.tensor([2, 0]))
    assert torch.equal(made, torch.stack([Numbered()[2][0], Numbered()[0][0]]))
    assert labels.tolist() == [2, 0]


def test_pixels_come_with_their_labels_and_the_epochs_view(tiny_backbone, animals):
    files = sorted((animals / "train").glob("*/*.png"))
    items = [Item(str(file), number % 3) for number, file in enumerate(files)]
    labels = torch.tensor([item.label for item in items])
    for batched in (False, True):
        pixels = Pixels(tiny_backbone, items, "coop", batched)
        made = Batches(pixels, labels, CPU)
        made.set_epoch(2)
        inputs, got = made.at(torch.tensor([5, 1]))
        plain = Pixels(tiny_backbone, items, "coop", False)
        plain.set_epoch(2)
        expected = torch.stack([plain[5][0], plain[1][0]])
        assert torch.allclose(inputs, expected, atol=0.04)
        assert got.tolist() == [items[5].label, items[1].label]
