"""One of three gateways behind nginx is killed (SIGKILL) under load: with nginx's retries, and without any.

What may be done twice (embedding, searching, storing by external id) must not fail with the retries. An answer
is not sent twice, so those that were under way on the killed gateway fail; they are counted apart.
"""

from drill import Load, deployment, expect, kill, prepare, stored_once


def main() -> None:
    with deployment() as served:
        for url in served.urls:
            prepare(url)
        for retries in (False, True):
            front = served.nginx(retries)
            with Load(front.url) as load:
                load.seen(60)
                kill(served.gateways[2])
                load.seen(120)
            load.report(f"SIGKILL of one of three, nginx {'with' if retries else 'without'} retries")
            stored_once(served, load.acknowledged)
            served.gateways[2] = served.start(2)
        repeatable = [o for o in load.failures() if o.kind not in ("ask", "stream")]
        expect(not repeatable, f"{len(repeatable)} requests failed that nginx may send twice")


main()
