"""Tangent spaces: closed forms, what is refused, and that nothing is touched."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import veridical as vd
from veridical.manifold import (
    TangentSettings,
    orthonormal_rows,
    tangent_chunks,
    tangent_fraction,
    tangent_spaces,
)
from veridical.manifold.decoding import prepare
from veridical.manifold.tangent import chunk_sizes, collapsed_latents

SHAPE = (2, 3, 4)
D = math.prod(SHAPE)


class Linear(nn.Module):
    """x = A z + b."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.matrix.T + 1).unflatten(1, SHAPE)


class Decoder(nn.Module):
    """Convolutions, in-place ReLU, batch normalization, dropout and a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)
        self.norm = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.up = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.relu(self.norm(self.linear(z).unflatten(1, (2, 2, 2))))
        return torch.sigmoid(self.up(self.drop(x)))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(dtype: torch.dtype = torch.float64) -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Decoder().to(dtype).eval()


def sphere(z: Tensor) -> Tensor:
    """Two angles to the unit sphere in the first three of D values."""
    a, b = z[:, 0], z[:, 1]
    point = torch.stack([a.sin() * b.cos(), a.sin() * b.sin(), a.cos()], 1)
    return torch.nn.functional.pad(point, (0, D - 3)).unflatten(1, SHAPE)


def torus(z: Tensor) -> Tensor:
    """Two angles to two circles of radius 1 and 2."""
    a, b = z[:, 0], z[:, 1]
    point = torch.stack([a.cos(), a.sin(), 2 * b.cos(), 2 * b.sin()], 1)
    return torch.nn.functional.pad(point, (0, D - 4)).unflatten(1, SHAPE)


class Cubed(torch.autograd.Function):
    """An operation without forward mode, whose backward pass can be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


class Once(Cubed):
    """And one whose backward pass cannot."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


def test_a_linear_decoder_has_the_space_of_its_columns() -> None:
    matrix, z = drawn(D, 4), drawn(3, 4, seed=1)
    found = tangent_spaces(Linear(matrix), z)
    q = torch.linalg.qr(matrix).Q
    projector = torch.einsum("nkc,nkd->ncd", found.basis.flatten(2), found.basis.flatten(2))
    torch.testing.assert_close(projector, (q @ q.T).expand(3, -1, -1))
    torch.testing.assert_close(found.singular_values, torch.linalg.svdvals(matrix).expand(3, -1))
    torch.testing.assert_close(found.latent_norms, matrix.norm(dim=0).expand(3, -1))
    torch.testing.assert_close(found.images, Linear(matrix)(z))
    assert found.rank.tolist() == [4] * 3 and found.derivative == "forward" and len(found) == 3
    assert found.dtype == torch.float64


def test_the_sphere_has_the_plane_orthogonal_to_the_radius() -> None:
    z = torch.tensor([[0.7, 0.2], [1.5, 3.0]], dtype=torch.float64)
    basis = vd.tangent_space(sphere, z).flatten(2)
    torch.testing.assert_close(basis @ sphere(z).flatten(1)[..., None], torch.zeros(2, 2, 1).double())
    assert torch.equal(basis[..., 3:], torch.zeros_like(basis[..., 3:]))


def test_the_torus_has_the_two_circles_tangents_the_longer_first() -> None:
    z = torch.tensor([[0.7, 0.2]], dtype=torch.float64)
    found = tangent_spaces(torus, z)
    a, b = z[0]
    expected = torch.zeros(2, D, dtype=torch.float64)
    expected[0, 2:4], expected[1, :2] = torch.stack([-b.sin(), b.cos()]), torch.stack([-a.sin(), a.cos()])
    torch.testing.assert_close(found.basis[0].flatten(1), expected)
    torch.testing.assert_close(found.singular_values, torch.tensor([[2.0, 1.0]]).double())


def test_the_projector_is_one() -> None:
    found = tangent_spaces(network(), z := drawn(4, 3))
    q = found.basis.flatten(2)
    torch.testing.assert_close(q @ q.mT, torch.eye(3).double().expand(4, 3, 3))
    projector = q.mT @ q
    torch.testing.assert_close(projector @ projector, projector)
    _, pushed = torch.func.jvp(network(), (z,), (drawn(4, 3, seed=5),))
    torch.testing.assert_close(
        tangent_fraction(pushed, found.basis), torch.ones(4).double(), atol=1e-12, rtol=0
    )


def test_forward_mode_gives_the_jacobian_that_one_backward_pass_an_output_gives() -> None:
    z = drawn(2, 3)
    prepared = prepare(network(), z, None)
    images, columns = prepared.jacobian(z, 2)
    for at in range(2):
        rows = torch.autograd.functional.jacobian(lambda one: network()(one[None])[0], z[at])
        torch.testing.assert_close(columns[at], rows.permute(3, 0, 1, 2))
    torch.testing.assert_close(images, network()(z))


def test_a_collapsed_direction_is_a_row_of_zeros_and_reported() -> None:
    matrix = drawn(D, 4)
    matrix[:, 2] = matrix[:, 0] - 2 * matrix[:, 1]
    found = tangent_spaces(Linear(matrix), drawn(2, 4))
    assert found.rank.tolist() == [3, 3] and found.collapsed.tolist() == [1, 1]
    assert not found.basis[:, 3].any() and found.basis[:, :3].flatten(2).any(2).all()
    assert (found.singular_values[:, 3] < 1e-13 * found.singular_values[:, 0]).all()
    assert tangent_fraction(matrix.T[:2].unflatten(1, SHAPE), found.basis).allclose(torch.ones(2).double())
    weak = drawn(D, 4) * torch.tensor([1.0, 1e-3, 1.0, 1.0])
    weak = tangent_spaces(Linear(weak), drawn(2, 4))
    assert weak.rank.tolist() == [4, 4] and weak.collapsed_latents() == [1]
    assert tangent_spaces(Linear(matrix), drawn(2, 4), tolerance=0.9).rank.max() < 3
    with pytest.raises(ValueError, match="share between 0 and 1, got 2"):
        collapsed_latents(weak.latent_norms, 2)


def test_a_decoder_that_does_not_move_has_rank_zero() -> None:
    found = tangent_spaces(
        lambda z: torch.relu(z.sum(1) - 50).view(-1, 1, 1, 1).expand(-1, *SHAPE), drawn(2, 3)
    )
    assert found.rank.tolist() == [0, 0] and not found.basis.any()


def test_a_decoder_without_forward_mode_goes_backward_twice() -> None:
    matrix, z = drawn(D, 3), drawn(2, 3)
    linear = Linear(matrix)
    found = tangent_spaces(lambda v: Cubed.apply(linear(v)), z)
    assert found.derivative == "reverse"
    same = tangent_spaces(lambda v: linear(v) ** 3, z)
    assert same.derivative == "forward"
    torch.testing.assert_close(found.basis, same.basis)
    torch.testing.assert_close(found.images, same.images)
    with pytest.raises(ValueError, match="neither forward mode .* nor a backward pass"):
        tangent_spaces(lambda v: Once.apply(linear(v)), z)


def test_chunks_and_blocks_change_nothing() -> None:
    z, seen = drawn(5, 3), []
    whole = tangent_spaces(network(), z)
    prepared = prepare(network(), z, None)
    need = 5 * 8 * 3 * 32 + 3 * prepared.image_bytes
    assert chunk_sizes(prepared, 3, 2 * need) == (2, 3)
    parts = tangent_spaces(network(), z, max_bytes=2 * need, progress=lambda *at: seen.append(at))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    for name in ("basis", "singular_values", "latent_norms", "images", "rank"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    assert chunk_sizes(prepared, 3, need - 1) == (1, 2)
    torch.testing.assert_close(vd.tangent_space(network(), z, max_bytes=need - 1), whole.basis)
    with pytest.raises(ValueError, match=r"expected max_bytes of at least \d+, what one image of .* got 100"):
        tangent_spaces(network(), z, max_bytes=100)
    sizes = [len(part) for part in tangent_chunks(network(), z, TangentSettings(), images=3)]
    assert sizes == [3, 2]


def test_a_latent_may_have_any_shape() -> None:
    matrix, z = drawn(D, 4), drawn(3, 4)
    flat = vd.tangent_space(Linear(matrix), z)
    shaped = vd.tangent_space(lambda v: Linear(matrix)(v.flatten(1)), z.view(3, 1, 2, 2))
    torch.testing.assert_close(shaped, flat)


@pytest.mark.parametrize("training", [False, True])
def test_the_decoder_and_the_random_state_are_left_as_they_were(training: bool) -> None:
    decoder = network(torch.float32).train(training)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    state, z = torch.get_rng_state(), drawn(3, 3).float()
    kept = z.clone()
    if training:
        with pytest.raises(ValueError, match="deterministic"):
            vd.tangent_space(decoder, z)
    else:
        assert vd.tangent_space(decoder, z).dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(z, kept)
    assert decoder.training == training and not any(module._forward_hooks for module in decoder.modules())
    for name, value in decoder.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == before[name].dtype, name
    assert all(value.grad is None and value.requires_grad for value in decoder.parameters())


def test_a_single_precision_module_is_computed_in_double() -> None:
    single, z = network(torch.float32), drawn(2, 3).float()
    found = tangent_spaces(single, z)
    double = network(torch.float32).double()
    torch.testing.assert_close(found.basis, tangent_spaces(double, z.double()).basis, atol=1e-12, rtol=0)
    rough = tangent_spaces(single, z, dtype=torch.float32)
    assert rough.dtype == torch.float32 and rough.basis.dtype == torch.float64
    assert 0 < (rough.basis - found.basis).abs().max() < 1e-3
    function = tangent_spaces(lambda v: single(v), z)
    assert function.dtype == torch.float32
    torch.testing.assert_close(function.basis, rough.basis, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="takes torch.float64 latents, got: .*the module itself"):
        tangent_spaces(lambda v: single(v), z.double())


def test_batch_coupling_is_refused() -> None:
    decoder = network()
    decoder.norm.train()
    counted = decoder.norm.num_batches_tracked.clone()
    with pytest.raises(ValueError, match=r"one by one, got an image that changes by .* decoder.eval\(\)"):
        vd.tangent_space(decoder, drawn(1, 3))
    assert decoder.norm.training and torch.equal(decoder.norm.num_batches_tracked, counted)
    matrix = drawn(D, 3)
    with pytest.raises(ValueError, match="one by one"):
        vd.tangent_space(lambda z: Linear(matrix)(z - z.mean(0)), drawn(2, 3))
    with pytest.raises(ValueError, match="one by one"):
        vd.tangent_space(
            lambda z: Linear(matrix)(z) * torch.arange(1.0, len(z) + 1).view(-1, 1, 1, 1), drawn(2, 3)
        )


def test_a_random_decoder_is_refused() -> None:
    matrix = drawn(D, 3)
    with pytest.raises(ValueError, match="deterministic decoder, got images that differ by"):
        vd.tangent_space(lambda z: Linear(matrix)(z + torch.randn_like(z)), drawn(2, 3))


def test_as_many_latents_as_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=f"fewer latent values than the {D} values of an image, got k = {D}"):
        vd.tangent_space(Linear(drawn(D, D)), drawn(1, D))


def test_images_of_different_sizes_are_refused() -> None:
    with pytest.raises(TypeError, match="one tensor .*, got list; images of different sizes"):
        vd.tangent_space(lambda z: [v.view(1, 1, -1) for v in z], drawn(2, 3))
    with pytest.raises(TypeError, match="latents as one tensor .*got list"):
        vd.tangent_space(sphere, [drawn(2), drawn(3)])

    def growing(z: Tensor) -> Tensor:
        return z.sum(1).view(-1, 1, 1, 1).expand(-1, 1, 4, 4 + int(z.max() > 100))

    with pytest.raises(ValueError, match=r"images of one size, got \(1, 4, 4\) and \(1, 4, 5\)"):
        vd.tangent_space(growing, torch.tensor([[0.0, 0.0], [200.0, 0.0]]))


def test_what_is_not_finite_is_refused() -> None:
    matrix = drawn(D, 2)
    z = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).double()
    with pytest.raises(ValueError, match=r"finite images from the decoder, got NaN or infinity in \[1\]"):
        vd.tangent_space(lambda v: Linear(matrix)(v) + (v[:, :1] + 0.9).log().view(-1, 1, 1, 1), z)
    with pytest.raises(ValueError, match=r"finite Jacobian, got NaN or infinity at latent\(s\) \[1\]"):
        vd.tangent_space(
            lambda v: Linear(matrix)(v) + (v[:, :1] + 1).clamp(min=0).sqrt().view(-1, 1, 1, 1), z
        )
    with pytest.raises(ValueError, match=r"finite latents, got NaN or infinity in \[0\]"):
        vd.tangent_space(sphere, torch.full((1, 2), math.nan))


def test_a_decoder_whose_derivative_is_cut_is_refused() -> None:
    matrix = drawn(D, 2)
    with pytest.raises(ValueError, match="got 0 for images that change with the latent; look for detach"):
        vd.tangent_space(lambda z: Linear(matrix)(z.detach()), drawn(2, 2))


@pytest.mark.parametrize(
    ("decoder", "z", "kind", "message"),
    [
        (3, drawn(1, 2), TypeError, "decoder that can be called, got int"),
        (sphere, torch.ones(1, 2).long(), TypeError, "floating point latents, got torch.int64"),
        (sphere, drawn(2), ValueError, r"latents of shape \(N, k\), got \(2,\)"),
        (sphere, drawn(0, 2), ValueError, r"latents of shape \(N, k\), got \(0, 2\)"),
        (
            lambda z: z,
            drawn(1, 2),
            ValueError,
            r"images of shape \(2, C, H, W\) from the decoder, got \(2, 2\)",
        ),
        (lambda z: sphere(z).long(), drawn(1, 2), TypeError, "floating point images .* got torch.int64"),
    ],
)
def test_other_mistakes_are_named(decoder: object, z: Tensor, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        vd.tangent_space(decoder, z)


def test_settings_are_checked() -> None:
    with pytest.raises(TypeError, match="floating point dtype, got torch.int64"):
        TangentSettings(dtype=torch.int64)
    with pytest.raises(ValueError, match="tolerance between 0 and 1, got 0"):
        TangentSettings(tolerance=0)
    with pytest.raises(ValueError, match="max_bytes of at least 1, got 0"):
        TangentSettings(max_bytes=0)
    with pytest.raises(ValueError, match="prior to be one of decoder, normal, none, got 'uniform'"):
        TangentSettings(prior="uniform")
    with pytest.raises(TypeError, match="speed"):
        vd.tangent_space(sphere, drawn(1, 2), speed=3)
    assert TangentSettings().tolerance_for(torch.float64) == 1024 * torch.finfo(torch.float64).eps


def test_a_latent_outside_the_prior_is_warned_of() -> None:
    z = torch.tensor([[0.1, 0.2], [30.0, 40.0]]).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vd.tangent_space(torus, z)
        vd.tangent_space(torus, z[:1], prior="normal")
    with pytest.warns(UserWarning, match=r"norm to 5.26\), got norm 50; 1 outside: \[1\]"):
        vd.tangent_space(torus, z, prior="normal")
    decoder = Linear(drawn(D, 2))
    decoder.prior = "normal"
    with pytest.warns(UserWarning, match="outside"):
        vd.tangent_space(decoder, z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vd.tangent_space(decoder, z, prior="none")


def test_orthonormal_rows_are_signed_by_the_matrix() -> None:
    matrix = torch.zeros(1, 2, 5).double()
    matrix[0, 0, 1], matrix[0, 1, 3] = -2.0, 3.0
    rows, values, rank = orthonormal_rows(matrix, 1e-12)
    torch.testing.assert_close(rows[0, 0], torch.eye(5).double()[3])
    torch.testing.assert_close(rows[0, 1], -torch.eye(5).double()[1])
    assert values.tolist() == [[3.0, 2.0]] and rank.tolist() == [2]


class Generator(nn.Module):
    """As of a GAN: noise (N, k, 1, 1), transposed convolutions, batch normalization, tanh."""

    def __init__(self, latents=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(latents, 6, 4, 1, 0, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z):
        return self.layers(z)


class Sampler:
    """As of latent diffusion: deterministic steps on a latent (N, 1, 2, 2), which is decoded at the end."""

    def __init__(self, steps=4):
        self.steps = steps
        self.noise = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.SiLU(), nn.Conv2d(5, 1, 3, padding=1))
        self.decoder = nn.Sequential(nn.Upsample(scale_factor=3), nn.Conv2d(1, 3, 3, padding=1), nn.Sigmoid())
        for part in (self.noise, self.decoder):
            part.double().eval()

    def __call__(self, z):
        for step in range(self.steps):
            before, after = (0.1 + 0.9 * (step + one) / self.steps for one in (0, 1))
            time = torch.full_like(z, before)
            noise = self.noise(torch.cat([z, time], dim=1))
            clean = (z - (1 - before) ** 0.5 * noise) / before**0.5
            z = after**0.5 * clean + (1 - after) ** 0.5 * noise
        return self.decoder(z)


def generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Generator().double()
        found(torch.randn(64, 4, 1, 1, dtype=torch.float64))
        return found.eval()


def sampler():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Sampler()


@pytest.mark.parametrize(
    ("decoder", "z"),
    [(generator(), drawn(3, 4, 1, 1)), (sampler(), drawn(3, 1, 2, 2))],
    ids=["GAN", "diffusion"],
)
def test_generators_of_users_have_the_range_of_their_jacobian(decoder, z):
    spaces = tangent_spaces(decoder, z)
    assert spaces.derivative == "forward" and spaces.rank.tolist() == [4] * 3
    torch.testing.assert_close(spaces.images, decoder(z).detach())
    for place in range(3):
        one = z[place : place + 1]
        jacobian = torch.autograd.functional.jacobian(lambda z: decoder(z)[0], one).flatten(3).squeeze(3)
        columns = jacobian.reshape(*spaces.images.shape[1:], 4).movedim(-1, 0)
        basis = spaces.basis[place].expand(4, -1, -1, -1, -1)
        torch.testing.assert_close(tangent_fraction(columns, basis), torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close(
            torch.linalg.svdvals(columns.flatten(1)), spaces.singular_values[place], rtol=1e-9, atol=1e-12
        )


def test_a_generator_in_training_mode_and_a_sampler_that_draws_are_refused():
    with pytest.raises(ValueError, match=r"batch normalization in training couples them"):
        tangent_spaces(generator().train(), drawn(3, 4, 1, 1))
    decoder = sampler()

    def noisy(z):
        return decoder(z + 0.1 * torch.randn_like(z))

    with pytest.raises(ValueError, match="expected a deterministic decoder"):
        tangent_spaces(noisy, drawn(3, 1, 2, 2))
