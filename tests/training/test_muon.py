from __future__ import annotations

import pytest
import timm
import torch

from finetune.training.muon import Muon, is_hidden_matrix, orthogonal


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration as published, step by step on the matrix itself."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    x = x.T if len(matrix) > matrix.shape[1] else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_orthogonal_is_the_published_iteration(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonal(matrix), newton_schulz(matrix), rtol=1e-4, atol=1e-5)


def test_singular_values_come_near_one_and_the_directions_stay() -> None:
    matrix = torch.randn(12, 60, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonal(matrix) @ v.T
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), rtol=0, atol=1e-4)


def test_a_zero_gradient_moves_nothing_but_by_decay() -> None:
    kernel = torch.nn.Parameter(torch.ones(4, 2, 3, 3))
    kernel.grad = torch.zeros_like(kernel)
    Muon([{"params": [kernel], "orthogonal": True, "weight_decay": 0.1}], lr=0.5).step()
    torch.testing.assert_close(kernel.detach(), torch.full((4, 2, 3, 3), 0.95))


def test_one_step_of_a_kernel_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(2)
    start, gradient = (torch.randn(40, 2, 3, 3, generator=generator) for _ in range(2))
    kernel = torch.nn.Parameter(start.clone())
    kernel.grad = gradient.clone()
    Muon([{"params": [kernel], "orthogonal": True}], lr=0.1).step()
    # The first Nesterov update is 1.9 times the gradient, and orthogonal() does not see the factor.
    step = newton_schulz(gradient.reshape(40, 18)).reshape(start.shape)
    expected = start - 0.1 * (40 / 18) ** 0.5 * step
    torch.testing.assert_close(kernel.detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_other_groups_are_sgd() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    muon = Muon([{"params": list(ours.parameters()), "weight_decay": 0.01}], lr=0.1)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for _ in range(4):
        x = torch.randn(7, 5)
        for layer, optimizer in ((ours, muon), (theirs, sgd)):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_first_depthwise_and_classifier_kernels_are_left_to_sgd() -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=3)
    hidden = {n for n, p in model.named_parameters() if is_hidden_matrix(n, p, "classifier")}
    assert "conv_stem.weight" not in hidden
    assert "classifier.weight" not in hidden
    assert "blocks.0.0.conv_dw.weight" not in hidden
    assert "blocks.0.0.conv_pw.weight" in hidden
    assert "blocks.1.0.bn1.weight" not in hidden
