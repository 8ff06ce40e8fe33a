"""The only gateway is killed (SIGKILL) 20 times while it stores documents in the background: each is stored once."""

from drill import deployment, expect, good, kill, wait_for

KILLS, DOCUMENTS = 20, 400
# A lease that runs out soon: the drill would wait 30 s for it after each kill.
SETTINGS = (("lease_ms = 30_000", "lease_ms = 1_000"), ("poll_ms = 2_000", "poll_ms = 200"), ("retry_ms = 5_000", "retry_ms = 200"))


def main() -> None:
    with deployment(gateways=1, settings=SETTINGS) as served:
        url = served.urls[0]
        documents = [{"content": f"Ferry number {n} sails at noon.", "external_id": f"ferry-{n}"} for n in range(DOCUMENTS)]
        task = good(url, "/api/v1/documents/async", {"documents": documents})["task_id"]
        stored = lambda: int(served.postgres.ask("SELECT count(*) FROM documents"))
        kills = 0
        for _ in range(KILLS):
            before = stored()
            wait_for("progress", lambda: stored() > before or before == DOCUMENTS, 60)
            kills += stored() < DOCUMENTS
            print(f"{stored()} stored", end="; ", flush=True)
            kill(served.gateways[0])
            served.gateways[0] = served.start(0)
        print()
        state = lambda: good(url, f"/api/v1/tasks/{task}")
        wait_for("the end of the task", lambda: state()["status"] not in ("queued", "processing"), 120)
        ended = state()
        ids = served.external_ids()
        passages = int(served.postgres.ask("SELECT count(*) FROM passages"))
        print(f"killed {KILLS} times, {kills} of them before all documents were stored; the task: {ended['status']}, {ended['progress']}")
        print(f"documents: {len(ids)} of {DOCUMENTS}, most often stored: {max(ids.values())} times; passages: {passages}")
        reported = {document["status"] for document in ended["result"]["documents"]}
        print(f"reported for {len(ended['result']['documents'])} documents: {', '.join(sorted(reported))}")
        expect(kills == KILLS, "the documents were all stored before the last kill")
        expect(ended["status"] == "succeeded", "the task did not succeed")
        expect(len(ids) == passages == DOCUMENTS and max(ids.values()) == 1, "documents are missing or twice there")


main()
