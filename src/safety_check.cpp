#include "safety_check.hpp"

#include "claim.hpp"
#include "clock.hpp"
#include "pg/identity.hpp"
#include "pg/transaction.hpp"
#include "sleepers.hpp"

namespace underway {

namespace {

constexpr int most_entries = 10000;  // of the index, for each priority of a queue, at each place

bool is_overlooked(const queue_info& q, int priority, const lane& l, row_key* found) {
  return first_pending(q.id, priority, lowest_key, l.mark, most_entries, found) ||
         (l.next_due > clock_now() &&
          first_pending(q.id, priority, l.mark, highest_key, most_entries, found) &&
          found->run_at < l.next_due);
}

}  // namespace

void look_through(database_entry* db, queue_list& queues) {
  for (queue_info& q : queues) {
    if (q.entry == nullptr || q.why == obstacle::held) {
      continue;
    }
    pg::transaction tx(pg::transaction::kind::ours);
    {
      pg::as_owner owner(true);
      for (int p = 0; p < priorities; p++) {
        const lane l = lane_of(q.entry, p);
        row_key found = {};
        // Of a lane that nothing is known of, a survey finds out.
        if (l.next_due != DT_NOBEGIN && is_overlooked(q, p, l, &found) &&
            lower(q.entry, q.id, p, found)) {
          poke_if(db,
                  wake_for(db, q.entry, q.id, found.run_at <= clock_now() ? 1 : 0, found.run_at));
        }
      }
    }
    tx.commit();
  }
}

}  // namespace underway
