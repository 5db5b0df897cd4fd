#include "reclaim.hpp"

#include "dequeue.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/transaction.hpp"
#include "slots.hpp"

namespace underway::reclaim {

namespace {
pg::statement reclaim_boot("SELECT underway_internal.reclaim_boot($1, $2)", INT8OID, BOOLOID);
pg::statement reclaim_worker("SELECT underway_internal.reclaim_worker($1, $2, $3)", INT8OID, INT4OID, INT4OID);

void run(pg::statement* statement, const pg::value* args) {
  pg::transaction tx(pg::transaction::kind::ours);
  {
    pg::as_owner owner(true);
    statement->run(args);
  }
  tx.commit();
}
}  // namespace

void earlier_boots() {
  const pg::value args[2] = {pg::of(shared->boot), pg::of(shared->unclean)};
  run(&reclaim_boot, args);
}

void dead_workers(database_entry* db) {
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->state == slot_state::dead && slot->database == db->oid) {
      const pg::value args[3] = {pg::of(shared->boot), pg::of(n), pg::of(static_cast<int32>(slot->generation))};
      run(&reclaim_worker, args);
      slot->tasks = 0;
      slot->state = slot_state::free;
    }
  }
}

void overdue(database_entry* db) {
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->database != db->oid || !slot->overdue.exchange(false)) {
      continue;
    }
    claimed_task back[worker_slot::max_prefetch];
    int count = 0;
    SpinLockAcquire(&slot->mutex);
    for (int i = slot->begun; i < Min(slot->prefetched, worker_slot::max_prefetch); i++) {
      back[count].id = slot->ids[i];
      back[count].attempt = slot->attempts[i];
      count++;
    }
    slot->prefetched = slot->begun;
    SpinLockRelease(&slot->mutex);
    slot->tasks -= count;
    give_back(back, count);
  }
}

}  // namespace underway::reclaim
