r"""One run of SMC2 under way: observations taken in, and the cloud renewed where its weights have become uneven.

    weigh by the next observation -> record -> where ESS < threshold * M:  resample -> exchange? -> move -> record

(Chopin, Jacob & Papaspiliopoulos 2013, *JRSS B* 75(3), section 3).  Before the moves filters are repeated at a few
fixed points of the cloud; where the standard deviation of their log likelihood is too large, all points are exchanged
for ones with more particles.  The spread of log likelihoods over the cloud says nothing of it: that is to be learnt.

Points are moved until most have moved: once by a proposal that forgets the present point, best where the cloud is
nearly normal, once by a random walk, and then by the one that went further, in mean squares.

All randomness of a step comes from the key of the run and the number of the step, and what is decided is decided from
the weights at each step: a run that is cut into pieces, in whatever way, is the same run bit by bit.  Filters run some
steps ahead of the decision, and are taken back where it was to renew the cloud before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled
from tqdm import tqdm

from ssmscan.inference.importance_weights import systematic
from ssmscan.inference.interrupts import interruptible
from ssmscan.inference.progress import compile_timed, phase
from ssmscan.inference.smc2_cloud import Cloud, host, noise_of, scatter
from ssmscan.inference.smc2_step import (
    Assimilate,
    Kernel,
    Lanes,
    Law,
    Move,
    Operand,
    Points,
    blank,
    first_values,
    numbers,
    over_points,
    parameters,
    shapes_of_points,
    taken,
)
from ssmscan.inference.spreading import mesh_for
from ssmscan.model.protocols import PyTree
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.filter_step import Settings
from ssmscan.particles.memory import GIB, device_bytes, result_bytes

AHEAD = 64
"""Most steps that filters run ahead of the decision to renew the cloud."""

COPIES = 3
"""How many clouds are there at once while it is renewed: before, resampled, moved."""

NOISE_POINTS, REPEATS = 8, 8
"""Points of the cloud at which filters are repeated, and how often at each."""

MOST_GROWTH = 8
"""Largest factor by which the number of particles grows at once."""

RESAMPLE, NOISE, EXCHANGE, RESAMPLE_AGAIN, START, MOVES = range(6)
"""What is folded into the key of a step; the moves have the numbers from the last on."""


@dataclass(frozen=True)
class Rules:
    """What decides how a cloud is renewed; settings of the front, see there."""

    num_points: int
    threshold: float
    target_sd: float
    moved: float
    max_moves: int
    max_particles: int
    grows: bool


@dataclass
class Programs:
    """The compiled kernels, and the seconds that compiling and running them took."""

    ssm: StateSpaceModel
    estimator: ParticleFilter
    progress: bool
    compile_seconds: float = 0.0
    known: dict[tuple, Compiled] = field(default_factory=dict)

    def settings(self, num_particles: int) -> Settings:
        """Return the settings of the filters, whose proposal takes one step at a time."""
        return cast(Settings, self.estimator.with_num_particles(num_particles))

    def call(self, kernel: Kernel, operand: Operand, state: PyTree, count: int) -> tuple[PyTree, PyTree]:
        """Apply a kernel to all points; Control-C is raised here."""
        given = operand, state, jnp.asarray(count, jnp.int32)
        lanes = len(jax.tree.leaves(state)[0])
        mesh = mesh_for(lanes)
        if (kernel, lanes) not in self.known:
            static = {"kernel": kernel, "mesh": mesh}
            with phase("SMC2: compiling", progress=self.progress), interruptible():
                compiled, seconds = compile_timed(over_points, *given, **static)
            self.known[kernel, lanes] = cast(Compiled, compiled)
            self.compile_seconds += seconds
        program = self.known[kernel, lanes]
        if mesh.devices.size > 1:
            # Points come from another kernel, or were resampled, and lie elsewhere.
            given = jax.device_put(given, program.input_shardings[0])
        with interruptible():
            return jax.block_until_ready(program(*given))

    def require_room(self, num_points: int, num_particles: int) -> None:
        """Raise unless the clouds of a run fit in the memory of the device.

        Raises:
            MemoryError: they do not; nothing was compiled.
        """
        needed, available = self.room(num_points, num_particles), device_bytes()
        if available is not None and needed > available:
            raise MemoryError(
                f"SMC2 with {num_points:,} points of {num_particles:,} particles each needs {needed / GIB:.1f} GiB, "
                f"and the device has {available / GIB:.1f} GiB. Use a smaller num_points or num_particles."
            )

    def room(self, num_points: int, num_particles: int) -> int:
        """Return the bytes that the clouds of a run need at once."""
        return COPIES * result_bytes(self.shapes(num_points, num_particles))

    def shapes(self, num_points: int, num_particles: int) -> Points:
        """Return the shapes of the points of a cloud."""
        return shapes_of_points(self.settings(num_particles), self.ssm, num_points)


class Run:
    """A run: its key, and its cloud after the last step that was completed; None before there was one."""

    def __init__(self, key: jax.Array, programs: Programs, rules: Rules, num_particles: int):
        self.key, self.programs, self.rules, self.num_particles = key, programs, rules, num_particles
        self.cloud: Cloud | None = None

    def go_on(self, until: int, bar: tqdm, completed: Callable[[], None]) -> None:
        """Take in the observations up to number `until`; `completed` is called whenever there is more to keep."""
        if self.cloud is None:
            self.cloud = self._started()
        ahead = 1
        while True:
            if self.due:
                self.cloud, ahead = self._renewed(self.cloud), 1
                completed()
            if self.cloud.step >= until:
                return
            before = self.cloud.step
            self.cloud = self._weighed(self.cloud, min(ahead, AHEAD, until - before))
            bar.update(self.cloud.step - before)
            completed()
            ahead *= 2

    @property
    def due(self) -> bool:
        """Whether the cloud must be renewed, which was not done at its step."""
        assert self.cloud is not None
        few = self.cloud.ess < self.rules.threshold * self.rules.num_points
        return bool(few and self.cloud.moves == 0)

    def key_at(self, step: int, purpose: int) -> jax.Array:
        """Return the key of what is done at a step."""
        return jax.random.fold_in(jax.random.fold_in(self.key, step), purpose)

    def _operand(self, step: int, purpose: int, law: Law | None = None) -> Operand:
        return Operand(self.programs.ssm, self.key_at(step, purpose), jnp.asarray(step, jnp.int32), law)

    def _started(self) -> Cloud:
        """Draw the cloud from the prior, and weigh it by what parameters alone and the start explain."""
        ssm, size = self.programs.ssm, self.rules.num_points
        z, more = first_values(jax.random.fold_in(self.key, START), ssm, num_points=size)
        points = self._estimated(z, self.num_particles, 0, START)
        weight = np.where(np.isfinite(points.log_prior), np.asarray(points.log_likelihood) + np.asarray(more), -np.inf)
        cloud = Cloud(
            points=points,
            theta=host(parameters(ssm, z)),
            log_weights=np.full(size, -np.log(size)),
            before=0.0,
            variance=0.0,
            step=0,
            num_particles=self.num_particles,
            table=np.zeros((0, 0)),
            particle_steps=0,
        )
        return self._alive(cloud.with_weights(weight)).recorded()

    def _weighed(self, cloud: Cloud, count: int) -> Cloud:
        """Take in the next observations, `count` of them or fewer where the cloud must be renewed before."""
        kernel = Assimilate(self.programs.settings(cloud.num_particles), AHEAD)
        operand = Operand(self.programs.ssm, self.key, jnp.asarray(cloud.step, jnp.int32))
        points, increments = self.programs.call(kernel, operand, cloud.points, count)
        after = cloud
        for taken_in, increment in enumerate(np.asarray(increments)[:count], 1):
            after = self._alive(replace(after, step=after.step + 1).with_weights(increment)).recorded()
            if taken_in < count and after.ess < self.rules.threshold * self.rules.num_points:
                points, _ = self.programs.call(kernel, operand, cloud.points, taken_in)
                break
        moved = (after.step - cloud.step) * cloud.size * cloud.num_particles
        return replace(after, points=points, particle_steps=cloud.particle_steps + moved)

    def _renewed(self, cloud: Cloud) -> Cloud:
        """Resample the cloud, give its filters more particles where they are too noisy, and move it."""
        step, rules = cloud.step, self.rules
        law = scatter(np.asarray(cloud.points.z), cloud.log_weights)
        cloud = self._resampled(cloud, RESAMPLE)
        noise = np.nan
        if rules.grows:
            noise, cloud = self._noise(cloud)
            wanted = self._wanted(noise, cloud.num_particles)
            if wanted > cloud.num_particles:
                cloud = self._exchanged(cloud, wanted)
                if cloud.ess < rules.threshold * cloud.size:
                    cloud = self._resampled(cloud, RESAMPLE_AGAIN)

        points, shares = self._moved(cloud, law)
        return replace(
            cloud,
            points=points,
            theta=host(parameters(self.programs.ssm, points.z)),
            particle_steps=cloud.particle_steps + len(shares) * step * cloud.size * cloud.num_particles,
        ).noted(moved=shares[-1], num_moves=len(shares), noise=noise, num_particles=cloud.num_particles)

    def _moved(self, cloud: Cloud, law: tuple[np.ndarray, np.ndarray]) -> tuple[Points, list[float]]:
        """Move the cloud until most points have moved; also the share of them that had after each move."""
        kernel, state = Move(self.programs.settings(cloud.num_particles)), all_of(cloud.points)
        ever, shares = np.zeros(cloud.size, bool), [0.0]
        reached: dict[bool, float] = {}
        while len(shares) <= self.rules.max_moves and shares[-1] < self.rules.moved:
            forgets = reached[True] >= reached[False] if len(reached) == 2 else not reached
            operand = self._operand(cloud.step, MOVES + len(shares), Law.of(*law, forgets=forgets))
            after, accepted = self.programs.call(kernel, operand, state, cloud.step)
            apart = np.asarray(after.point.z, np.float64) - np.asarray(state.point.z, np.float64)
            reached[forgets] = float(np.mean(np.linalg.solve(law[1], apart.T) ** 2))
            ever, state = ever | np.asarray(accepted)[0], after
            shares.append(float(np.mean(ever)))
        return state.point, shares[1:]

    def _estimated(
        self, z: jax.Array, num_particles: int, step: int, purpose: int, used: np.ndarray | None = None
    ) -> Points:
        """Run filters at given parameters, to a step; where `used` says so, if it does."""
        settings = self.programs.settings(num_particles)
        points = blank(self.programs.shapes(len(z), num_particles))._replace(z=z)
        operand = self._operand(step, purpose, Law.same(z.shape[1]))
        return self.programs.call(Move(settings), operand, all_of(points, used), step)[0].point

    def _resampled(self, cloud: Cloud, purpose: int) -> Cloud:
        index = systematic(self.key_at(cloud.step, purpose), cloud.log_weights)
        return cloud.chosen(index, taken(cloud.points, jnp.asarray(index)))

    def _noise(self, cloud: Cloud) -> tuple[float, Cloud]:
        """Measure the standard deviation of repeated filters at fixed points of the cloud."""
        repeats = min(REPEATS, cloud.size // NOISE_POINTS)
        chosen = np.linspace(0, cloud.size - 1, NOISE_POINTS).round().astype(int).repeat(repeats)
        lanes = np.concatenate([chosen, np.zeros(cloud.size - len(chosen), int)])
        z, used = cloud.points.z[jnp.asarray(lanes)], np.arange(cloud.size) < len(chosen)
        points = self._estimated(z, cloud.num_particles, cloud.step, NOISE, used=used)
        found = np.asarray(points.log_likelihood, np.float64)[used].reshape(NOISE_POINTS, repeats)
        steps = len(chosen) * cloud.step * cloud.num_particles
        return noise_of(found), replace(cloud, particle_steps=cloud.particle_steps + steps)

    def _wanted(self, noise: float, num_particles: int) -> int:
        """Return the number of particles that brings the noise to its target, as far as there is room."""
        wanted, ratio = num_particles, min((noise / self.rules.target_sd) ** 2, float(MOST_GROWTH))
        available = device_bytes()
        while wanted < ratio * num_particles and 2 * wanted <= self.rules.max_particles:
            if available is not None and self.programs.room(self.rules.num_points, 2 * wanted) > available:
                break
            wanted *= 2
        return wanted

    def _exchanged(self, cloud: Cloud, num_particles: int) -> Cloud:
        """Exchange the filters for ones with more particles, at the same parameters; weights keep the target."""
        points = self._estimated(cloud.points.z, num_particles, cloud.step, EXCHANGE)
        weights = exchange_weights(np.asarray(points.log_likelihood), np.asarray(cloud.points.log_likelihood))
        steps = cloud.step * cloud.size * num_particles
        cloud = replace(cloud, points=points, num_particles=num_particles, particle_steps=cloud.particle_steps + steps)
        return self._alive(cloud.with_weights(weights))

    def _alive(self, cloud: Cloud) -> Cloud:
        """Return the cloud if some point has weight."""
        if np.isfinite(cloud.log_weights).any():
            return cloud
        where = f"observation {cloud.step - 1} of the loop" if cloud.step else "what is observed before the loop"
        raise ValueError(
            f"none of the {cloud.size:,} points can explain {where}: each has likelihood zero with the earlier ones. "
            "Look for data outside the support of their distribution or a model without a value; else use more "
            "num_points or num_particles, or a prior that says more"
        )


def all_of(points: Points, used: np.ndarray | None = None) -> Lanes:
    """Return the lanes of points, of which all are used or those that are said."""
    size = len(points.z)
    return Lanes(numbers(size), jnp.asarray(np.ones(size, bool) if used is None else used), points)


def exchange_weights(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return the log weights of points whose estimate was exchanged at fixed parameters."""
    return np.asarray(new, np.float64) - np.asarray(old, np.float64)


class Watch:
    """Seconds that a run took, those of compiling apart."""

    def __init__(self, programs: Programs):
        self._programs, self._start, self._compiled = programs, time.perf_counter(), programs.compile_seconds

    @property
    def seconds(self) -> float:
        """Seconds by now."""
        return time.perf_counter() - self._start - (self._programs.compile_seconds - self._compiled)
