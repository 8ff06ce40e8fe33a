"""All three gateways behind nginx are replaced one after the other under load: SIGTERM, a new one, ready, the next."""

import time

from drill import Load, deployment, expect, prepare, stored_once, terminate


def main() -> None:
    with deployment() as served:
        for url in served.urls:
            prepare(url)
        front = served.nginx()
        with Load(front.url) as load:
            load.seen(60)
            for number in range(3):
                started = time.monotonic()
                terminate(served.gateways[number])
                ended = time.monotonic()
                served.gateways[number] = served.start(number)
                print(f"gateway {number + 1}: ended in {ended - started:.1f} s, ready {time.monotonic() - ended:.1f} s later")
                load.seen(60)
        load.report("rolling restart of three")
        stored_once(served, load.acknowledged)
        expect(not load.failures(), "requests failed")


main()
