"""The training loop: load, forward, loss, backward, clip, step, log, validate, save.

Every step is a function of (seed, step, state): batches are drawn by number, dropout is seeded by step, and the rate
comes from the written legs. So a CPU run that is killed and resumed ends in the same bits as one that was not.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from perpixel.engine.checkpoints import Progress, load_checkpoint, save_checkpoint
from perpixel.engine.interrupts import Interrupted, StopRequest, stop_on_signals
from perpixel.engine.run_folder import RunFolder
from perpixel.engine.schedules import SCHEDULES, Leg
from perpixel.errors import InputError, did_you_mean
from perpixel.layers import guard_convolutions
from perpixel.models.weights import save_weights

OnEvent = Callable[[dict[str, Any]], None]

# On a GPU reading the loss waits for the device, so it is looked at in bundles; always before anything is saved.
LOSS_CHECK_EVERY = {"cpu": 1}
LOSS_CHECK_EVERY_DEFAULT = 16
# A budget is replanned when the remaining steps are off by more than this share.
REPLAN_TOLERANCE = 0.03
REPLAN_LEAST_STEPS = 5


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became NaN or infinite. The last checkpoint is from before."""


class AnyBatch(Protocol):
    """What `fit` itself needs of a batch: the names of its images."""

    names: list[str]


class Task(Protocol):
    """What `fit` is trained for: it owns the batches, targets -> loss, and outputs -> scores."""

    def batches(self, *, start_step: int, end_step: int, shrink: int, rank: int, world_size: int) -> Iterator[Any]:
        """Batches of steps start_step..end_step-1."""

    def forward(self, model: nn.Module, batch: Any, device: torch.device) -> Any:
        """What `model` (train mode) makes of a batch; called in the precision of the training."""

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Scalar loss of the model's training output."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores of `model` (eval mode); "score" is what the best checkpoint is chosen by, higher is better."""


@dataclass(frozen=True)
class Recipe:
    """How to train: the part of a plan that the loop itself acts on.

    Attributes:
        optimizer: "adamw" or "sgd" (Nesterov momentum 0.9).
        learning_rate: peak rate.
        schedule: a name in SCHEDULES.
        weight_decay: applied to weights of two or more dimensions only.
        clip: largest gradient norm.
        ema_share: averaging horizon of the weights as a share of all steps; 0 switches averaging off.
        validations: number of validations over the run, the last at its end.
        patience: stop after so many validations without a better one; None never stops early.
        checkpoint_every_s: seconds between checkpoints.
        budget_s: seconds that training may take, None for a fixed number of steps.
        seed: of dropout.
        channels_last: memory layout of the convolutions.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "onecycle"
    weight_decay: float = 0.01
    clip: float = 5.0
    ema_share: float = 0.02
    validations: int = 10
    patience: int | None = None
    checkpoint_every_s: float = 60.0
    budget_s: float | None = None
    seed: int = 0
    channels_last: bool = True


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or SGD. Biases, norms and other vectors are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    raise InputError(f"unknown optimizer '{recipe.optimizer}'{did_you_mean(recipe.optimizer, ['adamw', 'sgd'])}")


class Fit:
    """One run in progress. `run()` is the loop; the other methods are its verbs."""

    def __init__(
        self, model: nn.Module, task: Task, folder: RunFolder, recipe: Recipe, *, fabric: Fabric, on_event: OnEvent
    ) -> None:
        self.folder, self.task, self.recipe, self.fabric, self.on_event = folder, task, recipe, fabric, on_event
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if fabric.device.type == "cpu":
            guard_convolutions(model)
        self.model = model
        self.optimizer = make_optimizer(model, recipe)
        self.wrapped, self.optimizer = fabric.setup(model, self.optimizer)
        self.average = copy.deepcopy(model) if recipe.ema_share else model
        self.ema = self.average.state_dict() if recipe.ema_share else None
        self.progress = Progress()
        self.legs = folder.legs()
        self.pending: list[tuple[int, list[str], Tensor]] = []

    def run(self) -> Progress:
        """Train from the last checkpoint (or from the start) to the end of the legs.

        Raises:
            NonFiniteLossError: with the step and the files of the batch; the last good checkpoint stands.
            Interrupted: SIGINT or SIGTERM came; the state was saved first.
        """
        self._restore()
        with stop_on_signals() as stop:
            self.train_steps(stop)
        self._finish()
        return self.progress

    def train_steps(self, stop: StopRequest) -> None:
        """The steps that are left, with what happens between them."""
        state, rank, world_size = self.progress, self.fabric.global_rank, self.fabric.world_size
        clock = _Clock(state.elapsed_s)
        while state.step < self.legs.total_steps:
            leg = self.legs.at(state.step)
            if leg.end <= state.step:
                raise InputError(
                    f"{self.folder.path / 'legs.json'}: no leg at step {state.step}: train into a new folder"
                )
            clock.start_leg(leg)
            stream = self.task.batches(
                start_step=state.step, end_step=leg.end, shrink=leg.shrink, rank=rank, world_size=world_size
            )
            # The stream ends with the leg as it was planned when it began; a longer replan opens the next one.
            while state.step < min(leg.end, self.legs.total_steps) and self.legs.at(state.step).shrink == leg.shrink:
                self._step(stream, clock)
                if self._is_validation_due():
                    self._validate(clock)
                    if self._is_stale():
                        return
                    self._replan(clock)
                elif self._is_first_look():
                    self._replan(clock)
                if stop.name is not None:
                    self._interrupt(stop.name, clock)
                if clock.since_checkpoint() > self.recipe.checkpoint_every_s:
                    self._save(clock)

    def _step(self, stream: Iterator[AnyBatch], clock: _Clock) -> None:
        began = time.perf_counter()
        state = self.progress
        batch = next(stream)
        loaded = time.perf_counter()

        self._set_rate(state.step)
        torch.manual_seed(self.recipe.seed * 1_000_003 + state.step)
        self.wrapped.train()
        with self.fabric.autocast():
            outputs = self.task.forward(self.wrapped, batch, self.fabric.device)
        loss = self.task.loss(outputs, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self._watch(state.step, batch.names, torch.stack([loss.detach(), norm.to(loss.device)]))
        self.optimizer.step()
        self._average_weights(state.step)
        computed = time.perf_counter()

        state.step += 1
        state.elapsed_s = clock.elapsed()
        images = len(batch.names) * self.fabric.world_size
        clock.add_step(computed - began, loaded - began)
        self._report_step(loss, images / (computed - began), clock)

    def _set_rate(self, step: int) -> None:
        factor = SCHEDULES[self.recipe.schedule](self.legs.progress(step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor

    def _watch(self, step: int, names: list[str], values: Tensor) -> None:
        self.pending.append((step, names, values))
        every = LOSS_CHECK_EVERY.get(self.fabric.device.type, LOSS_CHECK_EVERY_DEFAULT)
        if len(self.pending) >= every:
            self._check_losses()

    def _check_losses(self) -> None:
        for step, names, values in self.pending:
            loss, norm = values.tolist()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                what = f"loss {loss:g}, gradient norm {norm:g}"
                event = {"kind": "stop", "reason": f"not finite: {what}", "step": step, "names": names}
                self._log(event)
                raise NonFiniteLossError(
                    f"step {step}: {what} (files: {shown}): the last good checkpoint stands in "
                    f"{self.folder.last.parent}; look at these files, or train anew with a lower --lr or in fp32"
                )
        self.pending.clear()

    @torch.no_grad()
    def _average_weights(self, step: int) -> None:
        if self.ema is None:
            return
        horizon = max(5.0, self.recipe.ema_share * self.legs.course(step)[-1].end)
        # Early on the average follows quickly: an average over 1000 random first weights would be no use.
        decay = min(1 - 1 / horizon, (1 + step) / (10 + step))
        now = self.model.state_dict()
        floats = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.ema[n] for n in floats], [now[n] for n in floats], 1 - decay)
        for name in now.keys() - set(floats):
            self.ema[name].copy_(now[name])

    def _is_validation_due(self) -> bool:
        count, step = self.recipe.validations, self.progress.step
        if step >= self.legs.total_steps:
            return True
        passed = math.floor(self.legs.progress(step) * count + 1e-9)
        return passed > math.floor(self.legs.progress(step - 1) * count + 1e-9)

    def _is_first_look(self) -> bool:
        leg = self.legs.at(self.progress.step)
        steps = leg.end - leg.start
        first = leg.start + max(1, min(max(5, steps // 25), steps - 1))
        return self.recipe.budget_s is not None and self.progress.step == first

    def _validate(self, clock: _Clock) -> None:
        self._check_losses()
        began = time.perf_counter()
        state = self.progress
        self.average.eval()
        scores = self.task.validate(self.average)
        is_best = scores["score"] >= state.best_score
        clock.validation_s = time.perf_counter() - began
        state.elapsed_s = clock.elapsed()
        if is_best:
            state.best_score, state.best_step, state.stale_validations = scores["score"], state.step, 0
            if self.fabric.is_global_zero:
                save_weights(self.average, self.folder.best)
        elif self.legs.at(state.step).shrink == 1:
            # While half the scale is seen, a validation at full scale says little of what is still to come.
            state.stale_validations += 1
        event = {
            "kind": "validation",
            "step": state.step,
            "progress": round(self.legs.progress(state.step), 4),
            **{name: value for name, value in scores.items() if name != "score"},
            "seconds": round(clock.validation_s, 3),
            "is_best": is_best,
            "elapsed_s": round(state.elapsed_s, 2),
        }
        state.history.append(event)
        self._log(event)

    def _is_stale(self) -> bool:
        patience = self.recipe.patience
        if patience is None or self.progress.stale_validations < patience:
            return False
        reason = f"no better validation in {patience}: stopped early"
        self._log({"kind": "stop", "reason": reason, "step": self.progress.step})
        return True

    def _replan(self, clock: _Clock) -> None:
        """Lengthen or shorten what remains so that each leg ends in time. Written down before it takes effect."""
        state, budget = self.progress, self.recipe.budget_s
        if budget is None or state.step >= self.legs.total_steps or self.legs.is_decided_after(state.step):
            return
        leg = self.legs.at(state.step)
        if leg.shrink != clock.shrink:
            return  # the times known are those of the leg that has just ended
        count, done = self.recipe.validations, self.legs.progress(state.step)
        remaining_validations = math.floor(count * leg.until + 1e-9) - math.floor(count * done + 1e-9)
        remaining_s = leg.budget_share * budget - clock.elapsed() - remaining_validations * clock.validation_s
        planned = leg.end - state.step
        possible = max(1, int(self.fabric.broadcast(remaining_s / clock.step_s())))
        if abs(possible - planned) <= max(REPLAN_LEAST_STEPS, REPLAN_TOLERANCE * planned):
            return
        reason = f"a step takes {clock.step_s():.3f} s: {possible} more steps fit the budget, not {planned}"
        self.legs = self.legs.replanned(state.step, possible, reason)
        if self.fabric.is_global_zero:
            self.folder.write_legs(self.legs)
        self._log({"kind": "replan", "step": state.step, "total_steps": self.legs.total_steps, "reason": reason})

    def _interrupt(self, signal_name: str, clock: _Clock) -> None:
        self._save(clock)
        self._log({"kind": "stop", "reason": signal_name, "step": self.progress.step})
        raise Interrupted(
            f"stopped by {signal_name} after step {self.progress.step} of {self.legs.total_steps}, saved in "
            f"{self.folder.path}: continue with perpixel train --resume {self.folder.path}"
        )

    def _save(self, clock: _Clock) -> None:
        self._check_losses()
        self.progress.elapsed_s = clock.elapsed()
        if self.fabric.is_global_zero:
            save_checkpoint(
                self.folder.last,
                model=self.model,
                ema=self.ema,
                optimizer=self.optimizer,
                progress=self.progress,
            )
        self.fabric.barrier()
        clock.mark_checkpoint()
        self._log({"kind": "checkpoint", "step": self.progress.step, "path": str(self.folder.last)})

    def _restore(self) -> None:
        if not self.folder.last.is_file():
            if self.fabric.is_global_zero and self.folder.log.is_file():
                self.folder.rewind_log(-1)
            self._log({"kind": "start", "total_steps": self.legs.total_steps, "recipe": asdict(self.recipe)})
            return
        self.progress = load_checkpoint(self.folder.last, model=self.model, ema=self.ema, optimizer=self.optimizer)
        if self.fabric.is_global_zero:
            self.folder.rewind_log(self.progress.step)
        self._log({"kind": "resume", "step": self.progress.step, "total_steps": self.legs.total_steps})

    def _finish(self) -> None:
        self._check_losses()
        state = self.progress
        if self.fabric.is_global_zero:
            save_checkpoint(self.folder.last, model=self.model, ema=self.ema, optimizer=self.optimizer, progress=state)
        self.fabric.barrier()
        self._log({"kind": "end", "step": state.step, "score": state.best_score, "seconds": round(state.elapsed_s, 2)})

    def _report_step(self, loss: Tensor, images_per_s: float, clock: _Clock) -> None:
        every, budget = max(1, self.legs.total_steps // 1000), self.recipe.budget_s
        # Reading the loss waits for a GPU, so there it is read only when it is logged.
        is_read = self.fabric.device.type == "cpu" or self.progress.step % every == 0
        event = {
            "kind": "step",
            "step": self.progress.step,
            "total_steps": self.legs.total_steps,
            "loss": round(loss.item(), 6) if is_read else None,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": round(images_per_s, 2),
            "data_s": round(clock.last_data_s, 5),
            "step_s": round(clock.last_step_s, 5),
            "elapsed_s": round(self.progress.elapsed_s, 2),
            "remaining_s": None if budget is None else round(max(0.0, budget - self.progress.elapsed_s), 2),
        }
        if self.progress.step % every == 0:
            self._log(event)
        elif self.fabric.is_global_zero:
            self.on_event(event)

    def _log(self, event: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            self.folder.append_log(event)
            self.on_event(event)


class _Clock:
    """Seconds since the run began, over all its sittings, and what a step takes."""

    def __init__(self, elapsed_s: float) -> None:
        self.began = time.perf_counter() - elapsed_s
        self.checkpoint_at = time.perf_counter()
        self.validation_s = 0.0
        self.last_step_s = self.last_data_s = 0.0
        self.shrink = 1
        self._steps: list[float] = []

    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def add_step(self, step_s: float, data_s: float) -> None:
        self.last_step_s, self.last_data_s = step_s, data_s
        self._steps = [*self._steps[-199:], step_s]

    def start_leg(self, leg: Leg) -> None:
        """Steps at another scale take another time."""
        if leg.shrink != self.shrink:
            self.shrink, self._steps = leg.shrink, []

    def step_s(self) -> float:
        """Mean over the last steps, the very first ones (warming up) left out where there are others."""
        return sum(self._steps[3:]) / len(self._steps[3:]) if len(self._steps) > 6 else max(self._steps)

    def since_checkpoint(self) -> float:
        return time.perf_counter() - self.checkpoint_at

    def mark_checkpoint(self) -> None:
        self.checkpoint_at = time.perf_counter()
