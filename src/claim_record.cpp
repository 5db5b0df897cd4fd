#include "claim_record.hpp"

#include "pg/table.hpp"

#include <vector>

namespace underway {

namespace {

namespace claim {
enum : int { slot, tasks };
}
pg::relation claims("claim");
pg::relation claims_pkey("claim_pkey");
pg::columns of_claim("slot", "tasks");

// What was recorded last for this worker; a transaction that did not commit leaves too many here,
// or what has ended.
auto& recorded = *new std::vector<pg_uuid_t>;

bool find(pg::table* t, const worker_slot* slot) {
  const int number = number_of(slot);
  t->prune(slot->recorded_at);
  if (t->look_at(slot->recorded_at) && t->int4(of_claim[claim::slot]) == number) {
    return true;
  }
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(number));
  // Entries of one key stand in the order of their places: the last one is the row's, and before it
  // are all that an old snapshot keeps.
  t->scan(claims_pkey.oid(), &key, 1, BackwardScanDirection);
  return t->next();
}

// False: somebody has the row locked.
bool write(worker_slot* slot, const pg_uuid_t* ids, size_t count) {
  auto values = static_cast<Datum*>(palloc(sizeof(Datum) * count));
  for (size_t n = 0; n < count; n++) {
    values[n] = UUIDPGetDatum(&ids[n]);
  }
  const Datum tasks = PointerGetDatum(
      construct_array(values, static_cast<int>(count), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
  PushActiveSnapshot(GetTransactionSnapshot());
  pg::table t;
  t.open(&claims, &of_claim);
  bool done = true;
  if (find(&t, slot)) {
    t.begin_copy();
    t.set(of_claim[claim::tasks], tasks);
    done = t.change() == pg::changed::yes;
  } else {
    t.begin_row();
    t.set(of_claim[claim::slot], Int32GetDatum(number_of(slot)));
    t.set(of_claim[claim::tasks], tasks);
    t.insert();
  }
  if (done) {
    slot->recorded_at = t.written_at();
  }
  t.close();
  PopActiveSnapshot();
  CommandCounterIncrement();
  return done;
}

void write_mine(const pg_uuid_t* ids, size_t count) {
  if (!write(my_slot, ids, count)) {
    ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                    errmsg("what worker %d has in hand cannot be recorded", number_of(my_slot)),
                    errdetail("Somebody has its row of underway_internal.claim locked.")));
  }
}

}  // namespace

void record_claim(const claimed_task* tasks, int n) {
  if (my_slot->revoked == 0) {
    recorded.clear();
  }
  for (int i = 0; i < n; i++) {
    recorded.push_back(tasks[i].id);
  }
  write_mine(recorded.data(), recorded.size());
}

void record_chained(const pg_uuid_t& id) {
  recorded.push_back(id);
  write_mine(recorded.data(), recorded.size());
  recorded.pop_back();
}

bool record_handed(worker_slot* slot, const pg_uuid_t& id) {
  return ConditionalLockRelationOid(claims.oid(), RowExclusiveLock) && write(slot, &id, 1);
}

void take_handed_record(const pg_uuid_t& id) { recorded.assign(1, id); }

}  // namespace underway
