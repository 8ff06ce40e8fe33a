"""One of three gateways behind nginx is killed (SIGKILL) under load: with nginx's retries, and without any.

What may be done twice (embedding, searching, storing by external id) must not fail with the retries. An answer
is not sent twice, so those that were under way on the killed gateway fail; they are counted apart, and so are streams
that had begun: these break off, and the language model, which takes three seconds, is not asked a second time.
"""

from drill import Load, deployment, expect, kill, prepare, stored_once
from slow_model import SlowModel


def main() -> None:
    model = SlowModel()
    with deployment(backends={"slow": model.url}) as served:
        for url in served.urls:
            prepare(url)
        for retries in (False, True):
            front = served.nginx(retries)
            streaming = Load(front.url, clients=9, kinds=("slow",))
            with Load(front.url, kinds=("embed", "search", "store")) as load, streaming:
                load.seen(60)
                streaming.seen(9)
                kill(served.gateways[2])
                load.seen(120)
                streaming.seen(18)
            load.report(f"SIGKILL of one of three, nginx {'with' if retries else 'without'} retries")
            streaming.report("meanwhile, streams of answers that take three seconds")
            stored_once(served, load.acknowledged)
            begun = [o for o in streaming.outcomes if o.begun]
            expect(bool(begun), "no stream had begun on the gateway that was killed")
            expect(all(o.status == 0 for o in begun), "a stream ended early as if it were whole")
            served.gateways[2] = served.start(2)
            if retries:
                expect(not load.failures(), f"{len(load.failures())} requests failed that nginx may send twice")
        again = {question: count for question, count in model.asked.items() if count > 1 and question.isdigit()}
        print(f"questions that the language model was asked: {len(model.asked)}, of those more than once: {len(again)}")
        expect(not again, "an answer was paid twice")


main()
