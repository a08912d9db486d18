"""The bar that people watch during a run, with p50 and p99 so far. On a terminal only."""

from hdrh.histogram import HdrHistogram
from tqdm import tqdm

from loadtest.quantiles import carried, told


class Progress:
    EVERY_S = 0.5

    def __init__(self, scenario: str, requests: int) -> None:
        self._bar = tqdm(total=requests, desc=scenario, unit="req", disable=None, leave=False, miniters=1)
        # Microseconds up to an hour. Two digits: reading its percentiles takes 0.1 ms, with three it would delay sends.
        self._times = HdrHistogram(1, 3_600_000_000, 2)
        self._new = 0

    @property
    def watched(self) -> bool:
        return not self._bar.disable

    def answered(self, seconds: float) -> None:
        if self.watched:
            self._times.record_value(max(1, round(seconds * 1e6)))
            self._new += 1

    def show(self) -> None:
        if self._new:
            count, by_percent = self._times.get_total_count(), self._times.get_percentile_to_value_dict([50, 99])
            p50, p99 = (told(by_percent[q] / 1000, carried(count, q / 100)) for q in (50, 99))
            self._bar.set_postfix_str(f"p50 {p50} ms, p99 {p99} ms", refresh=False)
            self._bar.update(self._new)
            self._new = 0

    def close(self) -> None:
        self.show()
        self._bar.close()
