#include "dequeue.hpp"

#include "clock.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/transaction.hpp"
#include "suspects.hpp"
#include "waitpoint.hpp"
#include "wake.hpp"

#include <algorithm>

namespace underway {

namespace {

pg::statement claim(
    "SELECT * FROM underway_internal.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    INT4OID, INT4OID, TIMESTAMPTZOID, UUIDOID, INT4OID, INTERVALOID, INT4OID, TEXTOID, INT8OID,
    INT4OID, INT4OID, INT4OID);
pg::statement next_due("SELECT underway_internal.next_due($1, $2, $3)", INT4OID, INT4OID,
                       TIMESTAMPTZOID);
pg::statement heads("SELECT priority, run_at FROM underway_internal.heads($1)", INT4OID);
pg::statement expire_claimed("SELECT underway_internal.expire_claimed($1, $2)", UUIDARRAYOID,
                             INTERVALOID);
pg::statement give_back_tasks("SELECT underway_internal.give_back($1, $2)", UUIDARRAYOID,
                              INT4ARRAYOID);

struct seen {
  int64 found = 0;  // locked
  int rows = 0;     // claimed
  int count = 0;    // to be run
  int expired = 0;
  row_key last = {};
  Datum* expired_ids = nullptr;
};

void take(const pg::row& r, MemoryContext memory, claimed_task* tasks, seen* s) {
  s->rows++;
  s->found = r.int8(11);
  s->last = {r.time(6), r.uuid(1)};
  if (r.boolean(8)) {
    auto id = static_cast<pg_uuid_t*>(MemoryContextAlloc(memory, sizeof(pg_uuid_t)));
    *id = r.uuid(1);
    s->expired_ids[s->expired++] = UUIDPGetDatum(id);
    return;
  }
  claimed_task& t = tasks[s->count++];
  t.id = r.uuid(1);
  t.attempt = r.int4(2);
  t.input = r.jsonb(3, memory);
  t.headers = r.jsonb(4, memory);
  t.timeout = r.interval(5, memory);
  t.last_attempt = r.boolean(7);
  t.crashes = r.int4(9);
  if (!r.null(10)) {
    t.lease = r.uuid(10);
  }
}

}  // namespace

claim_result claim_tasks(const claim_source& from, int priority, int max_tasks,
                         MemoryContext memory, claimed_task* tasks) {
  seen s;
  // Before the claim's snapshot; the end of the transaction, however it comes, ends the scan
  // (wake.cpp).
  watched_claim* c = begin_claim(from.entry, from.queue_id, priority);
  pg::call([] { waitpoint(waitpoint_id::scan_registered); });
  const row_key start = c != nullptr ? c->scan.start : lowest_key;
  const TimestampTz scanned_at = clock_now();
  TimestampTz due = DT_NOEND;
  const bool leased = from.slot < 0;
  const int most_crashes = leased ? INT_MAX : suspects_allowed(from.entry);
  pg::value args[12];
  pg::call([&] {
    s.expired_ids = static_cast<Datum*>(
        MemoryContextAlloc(memory, sizeof(Datum) * static_cast<Size>(max_tasks)));
    args[7] = pg::of_text(from.worker);
  });
  args[0] = pg::of(from.queue_id);
  args[1] = pg::of(priority);
  args[2] = pg::of_time(start.run_at);
  args[3] = pg::of(&start.id);
  args[4] = pg::of(max_tasks);
  args[5] = pg::of(from.ttl);
  args[6] = pg::of(from.max_attempts);
  args[11] = pg::of(most_crashes);
  if (!leased) {
    args[8] = pg::of(shared->boot);
    args[9] = pg::of(from.slot);
    args[10] = pg::of(static_cast<int32>(my_slot->generation));
  }
  claim.run(args, [&](const pg::row& r) { take(r, memory, tasks, &s); });
  if (s.expired > 0) {
    pg::value expired[2];
    pg::call([&] { expired[0] = pg::of_datum(pg::uuid_array(s.expired_ids, s.expired), false); });
    expired[1] = pg::of(from.ttl);
    expire_claimed.run(expired);
  }
  const bool exhausted = s.found < max_tasks && s.found == s.rows;
  if (exhausted) {
    const pg::value where[3] = {pg::of(from.queue_id), pg::of(priority), pg::of_time(scanned_at)};
    next_due.run(where, [&due](const pg::row& r) { due = r.null(1) ? DT_NOEND : r.time(1); });
  }
  if (s.found > s.rows) {
    // Locked and left: others may have skipped them.
    pg::call([&] { note_pending(from.queue_id, priority, s.last, 1); });
  }
  if (c != nullptr) {
    c->found = s.rows > 0;
    c->last = s.last;
    c->exhausted = exhausted;
    c->scanned_at = scanned_at;
    c->next_due = due;
    c->ended = !IsolationUsesXactSnapshot();  // an older snapshot than the scan proves nothing
  }
  return {s.count, !exhausted};
}

claim_result dequeue(queue_info* q, int priority, int max_tasks, MemoryContext memory,
                     claimed_task* tasks, bool (*is_current)()) {
  pg::transaction tx(pg::transaction::kind::ours);
  q->why = pg::call([q] { return check_handler(q); });
  if (q->why != obstacle::none) {
    tx.commit();
    return {};
  }
  char worker[64];
  snprintf(worker, sizeof worker, "background worker %d (pid %d)", number_of(my_slot), MyProcPid);
  claim_result claimed;
  {
    pg::as_owner owner(true);
    claimed = claim_tasks({q->entry, q->id, q->ttl, q->max_attempts, worker, number_of(my_slot)},
                          priority, max_tasks, memory, tasks);
  }
  pg::call([&claimed] {
    // Not with empty hands: a worker that looked in vain beside the one that a test holds must not
    // be held too.
    if (claimed.count > 0) {
      waitpoint(waitpoint_id::claimed);
    }
    ForceSyncCommit();  // what runs must be known to run, whatever the durability of the work
                        // (promise 4)
  });
  if (!is_current() ||
      (claimed.count > 0 && tasks[0].crashes > 0 && !enter_suspect(tasks[0].crashes))) {
    return {};
  }
  tx.commit();
  return claimed;
}

bool survey(const queue_info& q) {
  TimestampTz found[priorities];
  std::fill(found, found + priorities, DT_NOEND);
  const struct survey begun = begin_survey(q.entry);
  pg::transaction tx(pg::transaction::kind::ours);
  {
    pg::as_owner owner(true);
    const pg::value id = pg::of(q.id);
    heads.run(&id, [&found](const pg::row& r) {
      if (!r.null(2)) {
        found[r.int4(1)] = r.time(2);
      }
    });
  }
  pg::call([] { waitpoint(waitpoint_id::surveyed); });
  tx.commit();
  return end_survey(q.entry, begun, found);
}

void give_back(const claimed_task* tasks, int n) {
  if (n == 0) {
    return;
  }
  pg::transaction tx(pg::transaction::kind::ours);
  pg::call([] { waitpoint(waitpoint_id::give_back); });
  {
    pg::as_owner owner(true);
    pg::value args[2];
    pg::call([&] {
      auto ids = static_cast<Datum*>(palloc(sizeof(Datum) * static_cast<Size>(n)));
      auto attempts = static_cast<Datum*>(palloc(sizeof(Datum) * static_cast<Size>(n)));
      for (int i = 0; i < n; i++) {
        ids[i] = UUIDPGetDatum(&tasks[i].id);
        attempts[i] = Int32GetDatum(tasks[i].attempt);
      }
      args[0] = pg::of_datum(pg::uuid_array(ids, n), false);
      args[1] = pg::of_datum(pg::int4_array(attempts, n), false);
    });
    give_back_tasks.run(args);
  }
  tx.commit();
}

}  // namespace underway
