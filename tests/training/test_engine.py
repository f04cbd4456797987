"""One step of learning: the numbers of plain PyTorch, and no update that would spoil the weights."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

import pytest
import torch
from tiny_training import ADAMW, MUON, SGD, build_tiny_batch, build_tiny_plan, build_tiny_task
from torch import Tensor, nn

from medunet.device import Precision
from medunet.networks import build_network
from medunet.planning import Plan
from medunet.planning.plan import OptimizerPlan
from medunet.training.averaging import build_average, compute_decay, update_average
from medunet.training.compilation import Forward, try_compile
from medunet.training.engine import MAX_GRADIENT_NORM, Engine, build_optimizer, measure_step_seconds
from medunet.training.losses import Loss, build_loss
from medunet.training.muon import Muon

CPU = torch.device("cpu")
AVERAGED = ADAMW.model_copy(update={"averaging": 0.9})


def build_engine(plan: Plan, *, precision: Precision = "32-true", **options: Any) -> Engine:
    return Engine(plan, build_tiny_task(), device=CPU, precision=precision, **options)


def copy_tensors(engine: Engine) -> dict[str, Tensor]:
    """Weights and moments."""
    tensors = {name: tensor.clone() for name, tensor in engine.network.state_dict().items()}
    for index, moments in engine.optimizer.state_dict()["state"].items():
        tensors |= {f"{index}.{key}": torch.as_tensor(value).clone() for key, value in moments.items()}
    return tensors


# ---- the numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_steps_are_those_of_plain_pytorch(optimizer: OptimizerPlan, spatial_dims: int) -> None:
    """No Fabric, no channels-last, no fused optimiser: the same weights."""
    plan = build_tiny_plan(optimizer, spatial_dims=spatial_dims)
    engine = build_engine(plan, seed=3)
    torch.manual_seed(3)
    network = build_network(plan.network)
    plain = (
        torch.optim.AdamW(network.parameters(), weight_decay=1e-2, eps=1e-7, foreach=False, fused=False)
        if optimizer.name == "adamw"
        else torch.optim.SGD(network.parameters(), weight_decay=3e-5, momentum=0.99, nesterov=True, foreach=False)
    )
    compute_loss = build_loss("dice-ce", build_tiny_task(), CPU)
    for iteration in range(4):
        batch, learning_rate = build_tiny_batch(plan, iteration), 0.01 / (1 + iteration)
        loss = engine.step(batch, learning_rate)
        for group in plain.param_groups:
            group["lr"] = learning_rate
        plain.zero_grad()
        expected = compute_loss(network.forward_scales(batch.image), batch.codes)
        expected.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        plain.step()
        torch.testing.assert_close(loss.total, expected.total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(engine.network.state_dict(), network.state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_every_precision_learns_with_weights_in_float32(precision: Precision) -> None:
    plan = build_tiny_plan()
    engine, exact = build_engine(plan, precision=precision), build_engine(plan)
    losses = [(engine.step(batch, 1e-2), exact.step(batch, 1e-2)) for batch in [build_tiny_batch(plan)] * 15]
    assert losses[0][0].total.dtype == torch.float32
    assert float(losses[0][0].total) == pytest.approx(float(losses[0][1].total), rel=0.02)
    assert float(losses[-1][0].total) < 0.8 * float(losses[0][0].total)
    assert engine.find_fault() is None
    assert {tensor.dtype for tensor in engine.network.state_dict().values()} == {torch.float32}


def test_float16_gradients_are_unscaled_before_they_are_clipped() -> None:
    plan = build_tiny_plan(SGD.model_copy(update={"averaging": None}))
    states = []
    for precision in ("16-mixed", "32-true"):
        engine = build_engine(plan, precision=precision)  # type: ignore[arg-type]
        before = copy_tensors(engine)
        engine.step(build_tiny_batch(plan), 0.1)
        states.append(
            torch.cat([(value - before[name]).flatten() for name, value in engine.network.state_dict().items()])
        )
    assert float((states[0] - states[1]).norm() / states[1].norm()) < 0.1


def test_the_gradient_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.engine.MAX_GRADIENT_NORM", 1e-3)
    plan = build_tiny_plan(SGD.model_copy(update={"momentum": 0.0, "weight_decay": 0.0, "averaging": None}))
    engine = build_engine(plan)
    before = copy_tensors(engine)
    engine.step(build_tiny_batch(plan), 1.0)
    moved = torch.stack([(value - before[name]).norm() for name, value in engine.network.state_dict().items()]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def test_the_seed_makes_the_weights_and_the_callers_generator_is_left_alone() -> None:
    plan = build_tiny_plan()
    torch.manual_seed(11)
    first, same, other = (build_engine(plan, seed=seed).network.state_dict() for seed in (1, 1, 2))
    drawn = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(drawn, torch.rand(3))
    assert all(torch.equal(tensor, same[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_intensities_are_changed_before_the_network_sees_them() -> None:
    from medunet.augmentation import IntensityChange, apply_intensity

    plan = build_tiny_plan()
    batch = build_tiny_batch(plan)
    changes = (IntensityChange(blur_sigmas=((2.0, 2.0, 1.0),)),) * plan.batch_size
    changed = dataclasses.replace(batch, image=batch.image.clone(), changes=changes)
    blurred = dataclasses.replace(batch, image=apply_intensity(batch.image.clone(), changes))
    losses = [float(build_engine(plan).step(each, 0.0).total) for each in (batch, changed, blurred)]
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)
    assert losses[1] != pytest.approx(losses[0], rel=1e-4)


def test_a_step_is_timed_with_every_optimizer() -> None:
    for optimizer in (MUON, ADAMW, SGD):
        torch.manual_seed(5)
        assert measure_step_seconds(build_tiny_plan(optimizer), build_tiny_task(), CPU, "32-true") > 0
        drawn = torch.rand(1)
        torch.manual_seed(5)
        assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("seconds", "expected", "num_steps"),
    [([0.1, 0.5, 0.3, 0.4], 0.3, 4), ([5.0, 4.0, 1.0, 1.0], 4.0, 2), ([1.0, 1.5, 1.2, 0.1], 1.2, 3)],
    ids=["fastest-but-the-first", "long-steps", "until-the-time-is-up"],
)
def test_the_time_of_a_step_is_the_fastest_after_the_first(
    seconds: list[float], expected: float, num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, steps = [0.0], iter(seconds)

    def step(*_: Any) -> None:
        clock[0] += next(steps)

    monkeypatch.setattr("medunet.training.engine.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Engine, "step", step)
    assert measure_step_seconds(build_tiny_plan(), build_tiny_task(), CPU, "32-true") == pytest.approx(expected)
    assert clock[0] == pytest.approx(sum(seconds[:num_steps]))


# ---- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("optimizer", [MUON, ADAMW, SGD], ids=["muon", "adamw", "sgd"])
def test_a_nan_changes_neither_weights_nor_moments(optimizer: OptimizerPlan, precision: Precision) -> None:
    plan = build_tiny_plan(optimizer)
    engine = build_engine(plan, precision=precision)
    for iteration in range(3):
        engine.step(build_tiny_batch(plan, iteration), 1e-3)
    before = copy_tensors(engine)
    bad = build_tiny_batch(plan, 3)
    bad.image[0, 0, 0, 0, 0] = float("nan")
    engine.step(bad, 1e-3)
    assert engine.find_fault() == 3
    after = copy_tensors(engine)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    engine.step(build_tiny_batch(plan, 4), 1e-3)  # the optimiser still works
    assert not all(torch.equal(tensor, before[name]) for name, tensor in copy_tensors(engine).items())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in engine.kept_network.state_dict().values())
    assert engine.find_fault() == 3  # the first one stays


def test_an_infinite_loss_with_a_finite_gradient_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_infinite(*arguments: Any) -> Any:
        compute = build_loss(*arguments)

        def add_infinity(*inputs: Any) -> Loss:
            loss = compute(*inputs)
            return Loss(total=loss.total + float("inf"), soft_dice=loss.soft_dice)

        return add_infinity

    monkeypatch.setattr("medunet.training.objective.build_loss", build_infinite)
    plan = build_tiny_plan()
    engine = build_engine(plan)
    before = copy_tensors(engine)
    engine.step(build_tiny_batch(plan, 7), 1e-3)
    assert engine.find_fault() == 7
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.network.state_dict().items())


def test_an_overflow_of_float16_is_skipped_and_no_fault() -> None:
    plan = build_tiny_plan()
    engine = build_engine(plan, precision="16-mixed")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    engine._precision.scaler = scaler  # type: ignore[attr-defined]
    before = copy_tensors(engine)
    engine.step(build_tiny_batch(plan), 1e-3)
    assert engine.find_fault() is None
    assert scaler.get_scale() == 2.0**99
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.network.state_dict().items())


@pytest.mark.parametrize("optimizer", [MUON, SGD], ids=["muon", "sgd"])
def test_gradients_in_float16_that_are_never_finite_are_a_fault(optimizer: OptimizerPlan) -> None:
    """The loss is finite all the time, and every update is skipped: the budget must not pass like that."""
    plan = build_tiny_plan(optimizer)
    engine = build_engine(plan, precision="16-mixed")
    before = copy_tensors(engine)
    next(engine.network.parameters()).register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
    faults = []
    for iteration in range(28):
        loss = engine.step(build_tiny_batch(plan, iteration), 1e-3)
        assert bool(torch.isfinite(loss.total))
        faults.append(engine.find_fault())
    assert faults == [None] * 25 + [25, 26, 27]
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.network.state_dict().items())


def test_an_overflow_at_the_first_step_leaves_no_momentum_of_uninitialised_memory() -> None:
    engine = build_engine(build_tiny_plan(SGD), precision="16-mixed")
    engine._precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)  # which fills uninitialised memory with NaN
    try:
        engine.step(build_tiny_batch(engine.plan), 1e-3)
    finally:
        torch.use_deterministic_algorithms(False)
    moments = [moments["momentum_buffer"] for moments in engine.optimizer.state.values()]
    assert len(moments) == len(list(engine.network.parameters()))
    assert all(bool((moment == 0).all()) for moment in moments)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("optimizer", [MUON, ADAMW, SGD], ids=["muon", "adamw", "sgd"])
def test_moments_from_a_file_are_laid_out_like_the_weights(optimizer: OptimizerPlan, spatial_dims: int) -> None:
    """The file holds them contiguous; a fused step over two layouts would pair each weight with another one's moment."""
    plan = build_tiny_plan(optimizer, spatial_dims=spatial_dims)
    unbroken, resumed = build_engine(plan), build_engine(plan, seed=1)
    for iteration in range(2):
        unbroken.step(build_tiny_batch(plan, iteration), 1e-2)
    content = copy.deepcopy(unbroken.optimizer.state_dict())
    for moments in content["state"].values():
        moments.update({key: value.contiguous() for key, value in moments.items() if value is not None})
    resumed.network.load_state_dict(unbroken.network.state_dict())
    resumed.optimizer.load_state_dict(content)
    resumed.align_moments()
    for engine in (unbroken, resumed):
        engine.step(build_tiny_batch(plan, 2), 1e-2)
    after = copy_tensors(resumed)
    assert all(torch.equal(tensor, after[name]) for name, tensor in copy_tensors(unbroken).items())


# ---- the running mean --------------------------------------------------------------------------------------------------


def test_the_mean_is_that_of_the_formula() -> None:
    network = nn.Linear(2, 2)
    nn.init.zeros_(network.weight)
    average = build_average(network)
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 5.0)):
        nn.init.constant_(network.weight, value)
        update_average(average, network, decay=0.15, num_updates=step)
        decay = (0.1, 0.15, 0.15)[step]  # (1 + n) / (10 + n), but 0.15 at most
        expected = decay * expected + (1 - decay) * value
    assert average.weight.tolist() == [[pytest.approx(expected)] * 2] * 2
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert network.weight.requires_grad


def test_buffers_follow_the_network() -> None:
    network = nn.BatchNorm1d(2)
    average = build_average(network)
    network(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    update_average(average, network, decay=0.999, num_updates=1000)
    assert torch.equal(average.get_buffer("running_mean"), network.get_buffer("running_mean"))
    assert int(average.get_buffer("num_batches_tracked")) == 1


def test_the_decay_grows_to_what_was_asked() -> None:
    decays = [compute_decay(0.99, number) for number in range(2000)]
    assert decays[0] == 0.1
    assert decays == sorted(decays)
    assert decays[-1] == 0.99


def test_the_engine_keeps_the_mean_where_the_plan_asks_for_it() -> None:
    plain, averaged = build_engine(build_tiny_plan()), build_engine(build_tiny_plan(AVERAGED))
    assert plain.kept_network is plain.network
    mean = copy.deepcopy(averaged.network)
    for iteration in range(3):
        batch = build_tiny_batch(averaged.plan, iteration)
        assert torch.equal(plain.step(batch, 1e-2).total, averaged.step(batch, 1e-2).total)  # it changes no step
        update_average(mean, averaged.network, decay=0.9, num_updates=iteration)
    kept = averaged.kept_network.state_dict()
    assert kept.keys() == averaged.network.state_dict().keys()
    torch.testing.assert_close(kept, mean.state_dict(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(next(averaged.kept_network.parameters()), next(averaged.network.parameters()))


# ---- compiling ---------------------------------------------------------------------------------------------------------


def test_a_compiler_that_fails_is_named_once_and_the_network_runs_plain(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compile_badly(compute: Forward, **_: Any) -> Forward:
        def fail(patches: Tensor) -> list[Tensor]:
            msg = "CppCompileError: Python.h is missing\nmany lines"
            raise RuntimeError(msg)

        return fail

    monkeypatch.setattr(torch, "compile", compile_badly)
    plan = build_tiny_plan()
    engine, plain = build_engine(plan, will_compile=True), build_engine(plan)
    with caplog.at_level(logging.WARNING):
        engine.compile()
    assert [record.message for record in caplog.records] == [
        "The network cannot be compiled here and runs uncompiled, which is slower: CppCompileError: Python.h is missing"
    ]
    assert not engine.is_compiled
    batch = build_tiny_batch(plan)
    torch.testing.assert_close(engine.step(batch, 1e-3).total, plain.step(batch, 1e-3).total, rtol=1e-5, atol=1e-6)


def test_an_error_of_the_network_itself_is_not_taken_for_the_compilers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(patches: Tensor) -> list[Tensor]:
        msg = "the network's own"
        raise ValueError(msg)

    monkeypatch.setattr(torch, "compile", lambda compute, **_: compute)
    with pytest.raises(ValueError, match="the network's own"):
        try_compile(fail, lambda compute: [compute(torch.zeros(1)), None][1], has_graphs=False)
    assert not caplog.records


def test_compiling_leaves_weights_gradients_and_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []

    def compile_trivially(compute: Forward, **_: Any) -> Forward:
        return lambda patches: calls.append(patches) or compute(patches)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compile_trivially)
    plan = build_tiny_plan(AVERAGED)
    engine, plain = build_engine(plan, will_compile=True), build_engine(plan)
    torch.manual_seed(1)
    engine.compile()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert engine.is_compiled
    assert all(parameter.grad is None for parameter in engine.network.parameters())
    assert copy_tensors(engine).keys() == copy_tensors(plain).keys()
    before = copy_tensors(plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in copy_tensors(engine).items())
    engine.step(build_tiny_batch(plan), 1e-3)
    assert len(calls) == 2  # tried once, then used
    engine.network(calls[0])
    assert len(calls) == 2  # validation takes the network as it is


@pytest.mark.parametrize(
    ("device", "batch_size", "mode", "num_calls"),
    # Patches of 16 x 16 x 8 voxels: 512 are 2^20 voxels.
    [("cuda", 512, "reduce-overhead", 3), ("cuda", 513, None, 1), ("cpu", 2, None, 1)],
)
def test_cuda_graphs_are_asked_for_with_small_batches_on_a_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, device: str, batch_size: int, mode: str | None, num_calls: int
) -> None:
    asked: list[dict[str, Any]] = []
    tried: list[Forward] = []

    def compile_trivially(compute: Forward, **options: Any) -> Forward:
        asked.append(options)
        return lambda patches: compute(patches)

    monkeypatch.setattr(torch, "compile", compile_trivially)
    engine = build_engine(build_tiny_plan(), will_compile=True)
    engine.device, engine.plan = torch.device(device), build_tiny_plan(batch_size=batch_size)
    monkeypatch.setattr(engine, "_try_out", tried.append)
    engine.compile()
    assert engine.is_compiled
    assert asked == [{"dynamic": False, "mode": mode}]
    assert len(tried) == num_calls  # a graph is warmed up, recorded and replayed before training relies on it


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own import
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_compiled_training_is_the_same_each_time_and_close_to_the_plain_one(precision: Precision) -> None:
    from medunet.training.compilation import find_compiler

    if find_compiler(CPU) is None:
        pytest.skip("no C++ compiler")
    plan = build_tiny_plan(AVERAGED)
    engines = [build_engine(plan, precision=precision, will_compile=compiles) for compiles in (True, True, False)]
    for engine in engines[:2]:
        torch._dynamo.reset()
        engine.compile()
        assert engine.is_compiled
    losses = []
    for iteration in range(5):
        batch = build_tiny_batch(plan, iteration)
        losses.append([float(engine.step(batch, 1e-3).total) for engine in engines])
    assert all(first == second for first, second, _ in losses)
    assert [first for first, _, _ in losses] == pytest.approx([plain for _, _, plain in losses], rel=1e-2)
    states = [engine.kept_network.state_dict() for engine in engines]
    assert states[0].keys() == states[2].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


# ---- on a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("optimizer", [MUON, AVERAGED, SGD], ids=["muon", "adamw", "sgd"])
def test_no_step_waits_for_the_gpu(optimizer: OptimizerPlan, precision: Precision) -> None:
    plan = build_tiny_plan(optimizer)
    device = torch.device("cuda")
    engine = Engine(plan, build_tiny_task(), device=device, precision=precision)
    batches = [build_tiny_batch(plan, iteration) for iteration in range(5)]
    batches = [
        dataclasses.replace(batch, image=batch.image.to(device), codes=batch.codes.to(device)) for batch in batches
    ]
    engine.step(batches[0], 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            engine.step(batch, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert engine.find_fault() is None


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_small_patches_train_with_cuda_graphs() -> None:
    plan = build_tiny_plan(AVERAGED)
    device = torch.device("cuda")
    engines = [
        Engine(plan, build_tiny_task(), device=device, precision="bf16-mixed", will_compile=compiles)
        for compiles in (True, False)
    ]
    engines[0].compile()
    assert engines[0].is_compiled
    for iteration in range(5):
        batch = build_tiny_batch(plan, iteration)
        losses = [float(engine.step(batch, 1e-3).total) for engine in engines]
        assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_the_optimizer_is_the_plans() -> None:
    network = nn.Linear(2, 2)
    adamw = build_optimizer(network, ADAMW, CPU)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"], adamw.defaults["fused"]) == (3e-3, 1e-2, True)
    muon = build_optimizer(network, MUON, torch.device("cuda"))
    assert isinstance(muon, Muon)
    assert (muon.defaults["lr"], muon.defaults["momentum"], muon.defaults["fused"]) == (3e-3, 0.95, True)
    assert not build_optimizer(network, MUON, CPU).defaults["fused"]
    sgd = build_optimizer(network, SGD, torch.device("mps"))
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["fused"]) == (0.99, True, False)
