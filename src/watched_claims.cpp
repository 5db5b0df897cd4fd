#include "watched_claims.hpp"

#include "clock.hpp"
#include "external.hpp"
#include "sleepers.hpp"

#include <algorithm>

namespace underway {

namespace {

constexpr int max_claims = 16;
watched_claim claims[max_claims];
int claims_count = 0;
// The last subtransaction that made one more than there is room for; 0: none did.
SubTransactionId unwatched = InvalidSubTransactionId;

void end_claims() noexcept {
  database_entry* db = find_database(MyDatabaseId, false);
  const TimestampTz now = clock_now();
  need n = need::no;
  for (int i = 0; i < claims_count; i++) {
    const watched_claim& c = claims[i];
    if (c.ended) {
      end_scan(c.queue, c.scan, c.priority, c.found ? &c.last : nullptr, c.exhausted, c.scanned_at,
               c.next_due);
    } else {
      drop_scan(c.queue, c.scan);
    }
    // While something was due, the coordinator had no timer for what comes after it. As it does:
    // publish, then look.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const TimestampTz earliest = c.queue->earliest;
    if (db == nullptr || earliest == DT_NOEND) {
      continue;
    }
    if (OidIsValid(c.queue->role)) {
      n = earliest <= now ? n : more(n, tell_of_timer(db, earliest));
    } else if (earliest > now) {
      wake_later_than(MyDatabaseId, c.queue_id, earliest);
    } else if (!c.queue->full) {
      // Of those that have passed the queue by while this claim was under way.
      wake_external(MyDatabaseId, c.queue_id, 1);
    }
  }
  claims_count = 0;
  unwatched = InvalidSubTransactionId;
  if (db != nullptr) {
    poke_if(db, n);
  }
}

// The rows stay locked until COMMIT PREPARED, which forgets all marks.
void drop_claims() noexcept {
  for (int n = 0; n < claims_count; n++) {
    drop_scan(claims[n].queue, claims[n].scan);
  }
  claims_count = 0;
  unwatched = InvalidSubTransactionId;
}

}  // namespace

watched_claim* begin_claim(queue_entry* q, int queue_id, int priority) {
  if (claims_count == max_claims) {
    unwatched = std::max(unwatched, GetCurrentSubTransactionId());
    return nullptr;
  }
  watched_claim* c = &claims[claims_count];
  *c = {};
  c->queue = q;
  c->queue_id = queue_id;
  c->priority = priority;
  c->subtransaction = GetCurrentSubTransactionId();
  c->scan = begin_scan(q, queue_id, priority);
  claims_count++;
  return c;
}

void undo_watched_claims(SubTransactionId from) noexcept {
  if (claims_count == 0 && unwatched == InvalidSubTransactionId) {
    return;
  }
  database_entry* db = find_database(MyDatabaseId, false);
  need n = need::no;
  int kept = 0;
  for (int i = 0; i < claims_count; i++) {
    const watched_claim& c = claims[i];
    if (c.subtransaction < from) {
      claims[kept++] = c;
      continue;
    }
    drop_scan(c.queue, c.scan);
    lower_row(c.queue, c.queue_id, c.priority, c.scan.start);
    if (db != nullptr) {
      n = more(n, wake_for(db, c.queue, c.queue_id, 1, DT_NOBEGIN));
    }
  }
  claims_count = kept;
  if (unwatched != InvalidSubTransactionId && unwatched >= from) {
    // What it took is not known any more.
    reset_all_marks(MyDatabaseId);
    wake_external(MyDatabaseId, 0, shared->awaiters_size);
    n = need::yes;
    unwatched = from == InvalidSubTransactionId ? from : from - 1;
  }
  if (db != nullptr) {
    poke_if(db, n);
  }
}

void end_watched_claims(XactEvent event) noexcept {
  if (claims_count == 0 && unwatched == InvalidSubTransactionId) {
    return;
  }
  switch (event) {
    case XACT_EVENT_COMMIT:
      end_claims();
      break;
    case XACT_EVENT_ABORT:
      undo_watched_claims(InvalidSubTransactionId);
      break;
    case XACT_EVENT_PREPARE:
      drop_claims();
      break;
    default:
      break;
  }
}

}  // namespace underway
