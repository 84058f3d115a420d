"""Shares, and the verbs of a process that is alone; what several say to each other is tested in test_united.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finetune import process_group, ranks
from finetune.errors import ConfigError
from finetune.runtime import choose_device, choose_threads


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_shares_divide_everything_and_leave_no_single_row(world: int) -> None:
    for n in range(40):
        shares = [range(*ranks.share_of(n, rank, world)) for rank in range(world)]
        assert [i for share in shares for i in share] == list(range(n))
        sizes = [len(share) for share in shares if len(share)]
        assert n < 2 or min(sizes) >= 2
        assert max(sizes, default=0) - min(sizes, default=0) <= 1


def test_a_process_alone_talks_to_nobody() -> None:
    assert (ranks.rank(), ranks.world(), ranks.main(), ranks.alone()) == (0, 1, True, True)
    assert ranks.rows(7) == (0, 7)
    assert ranks.on_main(lambda: 3) == ranks.each(lambda: 3) == ranks.spread(3) == 3
    assert ranks.gather("a") == ["a"]
    assert ranks.numbers(1, 2) == [(1, 2)]
    assert ranks.any_of(False, True) == (False, True)
    rows, tensor = np.ones((2, 3)), torch.ones(2)
    assert ranks.gather_rows(rows) is rows
    ranks.add_up([tensor])
    ranks.spread_tensors([tensor])
    assert tensor.tolist() == [1, 1]
    with process_group.session(lambda: torch.device("cpu")):
        assert not torch.distributed.is_initialized()


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(key, str(value))


@pytest.mark.usefixtures("second_of_two")
def test_a_gpu_each_or_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(
        ConfigError, match=r"device must be cpu or auto for 2 processes on 1 GPU\(s\)\. Got 'cuda'"
    ):
        choose_device("cuda")
    with pytest.raises(
        ConfigError, match="device must be auto, cpu or cuda with several processes. Got 'cuda:0'"
    ):
        choose_device("cuda:0")


@pytest.mark.usefixtures("second_of_two")
def test_processes_of_a_machine_divide_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune import runtime

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime, "available_cores", lambda: 9)
    monkeypatch.setattr(runtime, "busy_cores", lambda: 0.0)
    assert choose_threads() == 4
    assert ranks.rank() == 1
    with ranks.solo():
        assert ranks.main()
