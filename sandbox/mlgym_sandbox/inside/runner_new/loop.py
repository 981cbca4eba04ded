class Timer:
    """A callback at a moment of the monotonic clock, until cancelled."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Loop:
    """Descriptors and timers; every callback runs here, one at a time."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.timers: list[tuple[float, int, Timer]] = []
        self.order = itertools.count()

    def watch(self, fd: int, events: int, action: Callable[[], None]) -> None:
        if fd in self.selector.get_map():
            self.selector.modify(fd, events, action)
        else:
            self.selector.register(fd, events, action)

    def unwatch(self, fd: int) -> None:
        if fd in self.selector.get_map():
            self.selector.unregister(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        heapq.heappush(self.timers, (time.monotonic() + seconds, next(self.order), timer))
        return timer

    def turn(self) -> None:
        """Wait for something to happen and deal with it."""
        while self.timers and self.timers[0][2].action is None:
            heapq.heappop(self.timers)
        timeout = min(max(0.0, self.timers[0][0] - time.monotonic()), 3600.0) if self.timers else None
        for key, _ in self.selector.select(timeout):
            if self.selector.get_map().get(key.fd) is key:  # else: an earlier callback of this turn changed it
                key.data()
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            action = heapq.heappop(self.timers)[2].action
            if action is not None:
                action()
