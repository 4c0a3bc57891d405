"""What goes wrong in a simulated world, when, and to whom: drawn by the seed beforehand, healed in the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random

from pythia.errors import BrokerUnavailable
from pythia.proof.hosts import Host
from pythia.proof.witness import Seam, World

LONGEST_STEP_SECONDS = 3600.0
STOPPED_WITHIN_SECONDS = 60.0
RELOADED = {  # beside the lanes: what makes consumers begin anew, and connections
    "lease_seconds": (1.0, 2.0, 4.0),
    "max_age_seconds": (86_400.0, 90_000.0),
    "broker.heartbeat_seconds": (15, 30),
    "reload.probation_seconds": (0.0, 5.0),
}

Fault = Callable[["Weather", Host], Awaitable[bool]]


class Weather:
    """Faults at their moments. ``seen`` counts those that had something to break."""

    def __init__(self, world: World, hosts: Sequence[Host], random: Random, *, lease: float) -> None:
        self._world = world
        self._hosts = hosts
        self._random = random
        self._lease = lease
        self.seen: Counter[str] = Counter()

    async def blow(self, within: float) -> None:
        """Break something now and then for so many seconds. All of it has healed when this returns."""
        loop, random = self._world.loop, self._random
        moments = sorted(random.uniform(0.2, within) for _ in range(random.randint(3, 9)))
        kinds = random.choices(tuple(FAULTS), tuple(weight for weight, _ in FAULTS.values()), k=len(moments))
        async with asyncio.TaskGroup() as group:
            for moment, kind in zip(moments, kinds, strict=True):
                await asyncio.sleep(moment - loop.time())
                group.create_task(self._strike(kind, random.choice(self._hosts)), name=kind)

    async def _strike(self, kind: str, host: Host) -> None:
        if await FAULTS[kind][1](self, host):
            self.seen[kind] += 1

    def _note(self, host: Host, kind: str) -> None:
        self._world.note("fault", host.process.number, text=kind)

    async def _while(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(self._random.uniform(shortest, longest))

    # Faults: each says whether there was something to break.

    async def kill(self, host: Host) -> bool:
        if not host.up:
            return False
        host.kill(at_once=self._random.random() < 0.5)
        await self._while(0.0, 3.0)
        host.start_if_down()
        return True

    async def pause(self, host: Host) -> bool:
        return await self._halt(host, renewing=False, longest=2.5 * self._lease)

    async def blocked_loop(self, host: Host) -> bool:
        return await self._halt(host, renewing=True, longest=1.5 * self._lease)

    async def _halt(self, host: Host, *, renewing: bool, longest: float) -> bool:
        if not host.up or host.process.halted:
            return False
        process = host.process
        host.halt(renewing=renewing)
        await self._while(0.1, longest)
        if host.process is process:
            host.go_on()
        return True

    async def cut(self, host: Host) -> bool:
        if not host.seam.live():
            return False
        self._note(host, "cut")
        host.seam.cut()
        return True

    async def broker_away(self, host: Host) -> bool:
        seam = host.seam
        self._note(host, "broker away")
        seam.down = True
        seam.cut("the broker went away")
        await self._while(0.1, 4.0)
        self._note(host, "broker away")
        seam.down = False
        return True

    async def server_cancel(self, host: Host) -> bool:
        return host.seam.cancel_consumers() > 0

    async def lost_reply(self, host: Host) -> bool:
        seam = host.seam
        seam.deaf = True
        await self._while(1.0, 5.0)
        return not seam.deaf

    async def failed_receive(self, host: Host) -> bool:
        seam = host.seam
        seam.faults.receive = lambda _queue: self._fail_receive(host, seam)
        await self._while(1.0, 5.0)
        return seam.faults.receive is None

    def _fail_receive(self, host: Host, seam: Seam) -> None:
        seam.faults.receive = None
        self._note(host, "failed receive")
        raise BrokerUnavailable("the answer cannot be read")

    async def refusal(self, host: Host) -> bool:
        seam = host.seam
        self._note(host, "refusal")
        seam.refusing = True
        await self._while(0.2, 5.0)
        seam.refusing = False
        return True

    async def clock_step(self, host: Host) -> bool:
        self._note(host, "clock step")
        host.clock.step(self._random.uniform(-LONGEST_STEP_SECONDS, LONGEST_STEP_SECONDS))
        return True

    async def pause_intake(self, host: Host) -> bool:
        if not host.serving:
            return False
        process = host.process
        host.pause()
        await self._while(0.1, 4.0)
        if host.process is process and host.up:
            host.resume()
        return True

    async def restart(self, host: Host) -> bool:
        if not host.up or host.process.halted:
            return False
        process = host.process
        self._note(host, "restart")
        host.stop()
        if await self._down(host) and host.process is process:
            host.start(again=not process.dead and self._random.random() < 0.5)
        return True

    async def _down(self, host: Host) -> bool:
        for _ in range(int(STOPPED_WITHIN_SECONDS / 0.25)):
            if not host.up:
                return True
            await asyncio.sleep(0.25)
        return False

    async def reload(self, host: Host) -> bool:
        if not host.serving:
            return False
        self._note(host, "reload")
        random = self._random
        others = {key: random.choice(values) for key, values in RELOADED.items() if random.random() < 0.5}
        host.reload(random.randint(1, 5), others, fails=random.random() < 0.2)
        return True


FAULTS: Mapping[str, tuple[float, Fault]] = {
    "kill": (3, Weather.kill),
    "pause": (3, Weather.pause),
    "blocked loop": (1, Weather.blocked_loop),
    "cut": (2, Weather.cut),
    "broker away": (1, Weather.broker_away),
    "server cancel": (2, Weather.server_cancel),
    "lost reply": (2, Weather.lost_reply),
    "failed receive": (1, Weather.failed_receive),
    "refusal": (2, Weather.refusal),
    "clock step": (1, Weather.clock_step),
    "pause intake": (1, Weather.pause_intake),
    "restart": (2, Weather.restart),
    "reload": (2, Weather.reload),
}
"""How likely each is, and what it does."""
