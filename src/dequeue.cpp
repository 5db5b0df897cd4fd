#include "dequeue.hpp"

#include "claim_record.hpp"
#include "clock.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/transaction.hpp"
#include "suspects.hpp"
#include "waitpoint.hpp"
#include "watched_claims.hpp"

#include <algorithm>

namespace underway {

namespace {

pg::statement expire_claimed("SELECT underway_internal.expire_claimed($1, $2)", UUIDARRAYOID,
                             INTERVALOID);
pg::statement give_back_tasks("SELECT underway_internal.give_back($1, $2)", UUIDARRAYOID,
                              INT4ARRAYOID);

}  // namespace

claim_result claim_tasks(const claim_source& from, int priority, int max_tasks,
                         MemoryContext memory, claimed_task* tasks) {
  // Before the claim's snapshot; the end of the transaction, however it comes, ends the scan
  // (wake.cpp).
  watched_claim* c = begin_claim(from.entry, from.queue_id, priority);
  pg::call([] { waitpoint(waitpoint_id::scan_registered); });
  const row_key start = c != nullptr ? c->scan.start : lowest_key;
  const TimestampTz scanned_at = clock_now();
  const int most_crashes = from.slot == nullptr ? INT_MAX : suspects_allowed(from.entry);
  const claimed_rows s = claim_rows(from, priority, start, max_tasks, most_crashes, memory, tasks);
  if (s.expired > 0) {
    pg::value expired[2];
    pg::call(
        [&] { expired[0] = pg::of_datum(pg::array_of(UUIDOID, s.expired_ids, s.expired), false); });
    expired[1] = pg::of(from.ttl);
    expire_claimed.run(expired);
  }
  if (c != nullptr) {
    c->found = s.rows > 0;
    c->last = s.last;
    c->exhausted = !s.more;
    c->scanned_at = scanned_at;
    c->next_due = s.next_due;
    c->ended = !IsolationUsesXactSnapshot();  // an older snapshot than the scan proves nothing
  }
  return {s.count, s.more};
}

namespace {

claim_result claim_here(queue_info* q, int priority, int max_tasks, MemoryContext memory,
                        claimed_task* tasks, bool with_others) {
  pg::as_owner owner(true);
  const claim_result claimed = claim_tasks(
      {q->entry, q->id, q->ttl, q->max_attempts, worker_name(my_slot), my_slot, with_others},
      priority, max_tasks, memory, tasks);
  pg::call([&] {
    // Not with empty hands: a worker that looked in vain beside the one that a test holds must not
    // be held too.
    if (claimed.count > 0) {
      record_claim(tasks, claimed.count);
      waitpoint(waitpoint_id::claimed);
      // What runs must be known to run, whatever the durability of the work (promise 4).
      ForceSyncCommit();
    }
  });
  return claimed;
}

}  // namespace

claim_result dequeue(queue_info* q, int priority, int max_tasks, MemoryContext memory,
                     claimed_task* tasks, bool (*is_current)()) {
  pg::transaction tx(pg::transaction::kind::ours);
  q->why = pg::call([q] { return check_handler(q); });
  if (q->why != obstacle::none) {
    tx.commit();
    return {};
  }
  const claim_result claimed = claim_here(q, priority, max_tasks, memory, tasks, false);
  if (!is_current() ||
      (claimed.count > 0 && tasks[0].crashes > 0 && !enter_suspect(tasks[0].crashes))) {
    return {};
  }
  tx.commit();
  return claimed;
}

int claim_ahead(queue_info* q, int priority, int max_tasks, MemoryContext memory,
                claimed_task* tasks) {
  return claim_here(q, priority, max_tasks, memory, tasks, true).count;
}

namespace {

struct heads_of_lanes {
  TimestampTz at[priorities];
};

heads_of_lanes read_heads(int queue_id) {
  heads_of_lanes heads;
  for (int p = 0; p < priorities; p++) {
    row_key first;
    const bool found = first_pending(queue_id, p, lowest_key, highest_key, INT_MAX, &first);
    heads.at[p] = found ? first.run_at : DT_NOEND;
  }
  return heads;
}

}  // namespace

bool survey(const queue_info& q) {
  const struct survey begun = begin_survey(q.entry);
  pg::transaction tx(pg::transaction::kind::ours);
  heads_of_lanes found;
  {
    pg::as_owner owner(true);
    found = read_heads(q.id);
  }
  pg::call([] { waitpoint(waitpoint_id::surveyed); });
  tx.commit();
  return end_survey(q.entry, begun, found.at);
}

void survey_now(queue_entry* entry, int queue_id) {
  const struct survey begun = begin_survey(entry);
  (void)end_survey(entry, begun, read_heads(queue_id).at);
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
      args[0] = pg::of_datum(pg::array_of(UUIDOID, ids, n), false);
      args[1] = pg::of_datum(pg::array_of(INT4OID, attempts, n), false);
    });
    give_back_tasks.run(args);
  }
  tx.commit();
}

}  // namespace underway
