"""The choice of a torch build, without a network."""

from __future__ import annotations

import pytest

from tools.install_torch import brings_cuda, pinned


def test_the_pin_is_found_among_others_and_without_its_comment() -> None:
    constraints = "torchvision==0.1\ntorch==2.13.0  # tested\nnumpy==2.4.6\n"

    assert pinned("torch", constraints) == "torch==2.13.0"


def test_a_missing_pin_is_an_error_that_names_it() -> None:
    with pytest.raises(SystemExit, match="no line for torch"):
        pinned("torch", "numpy==2.4.6\n")


@pytest.mark.parametrize("package", ["nvidia-cublas", "nvidia_nccl_cu13", "cuda-toolkit", "triton"])
def test_one_cuda_library_makes_a_cuda_build(package: str) -> None:
    assert brings_cuda(["torch", "sympy", package])


def test_the_build_for_cpus_brings_none() -> None:
    assert not brings_cuda(["torch", "sympy", "networkx", "Jinja2", "fsspec", "filelock"])
