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

// What was recorded last; a transaction that did not commit leaves too many here, or what has
// ended.
auto& recorded = *new std::vector<pg_uuid_t>;
pg::place written = {};

bool is_mine(const pg::table& t) { return t.int4(of_claim[claim::slot]) == number_of(my_slot); }

bool find(pg::table* t) {
  t->prune(written);
  if (t->look_at(written) && is_mine(*t)) {
    return true;
  }
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(number_of(my_slot)));
  // Entries of one key stand in the order of their places: the last one is the row's, and before it
  // are all that an old snapshot keeps.
  t->scan(claims_pkey.oid(), &key, 1, BackwardScanDirection);
  return t->next();
}

void write(const pg_uuid_t* next) {
  const size_t count = recorded.size() + (next != nullptr ? 1 : 0);
  auto ids = static_cast<Datum*>(palloc(sizeof(Datum) * count));
  for (size_t n = 0; n < recorded.size(); n++) {
    ids[n] = UUIDPGetDatum(&recorded[n]);
  }
  if (next != nullptr) {
    ids[count - 1] = UUIDPGetDatum(next);
  }
  const Datum tasks = PointerGetDatum(
      construct_array(ids, static_cast<int>(count), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
  PushActiveSnapshot(GetTransactionSnapshot());
  pg::table t;
  t.open(&claims, &of_claim);
  if (find(&t)) {
    t.begin_copy();
    t.set(of_claim[claim::tasks], tasks);
    if (t.change() != pg::changed::yes) {
      ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                      errmsg("what worker %d has in hand cannot be recorded", number_of(my_slot)),
                      errdetail("Somebody has its row of underway_internal.claim locked.")));
    }
  } else {
    t.begin_row();
    t.set(of_claim[claim::slot], Int32GetDatum(number_of(my_slot)));
    t.set(of_claim[claim::tasks], tasks);
    t.insert();
  }
  written = t.written_at();
  t.close();
  PopActiveSnapshot();
  CommandCounterIncrement();
}

}  // namespace

void record_claim(const claimed_task* tasks, int n) {
  if (my_slot->revoked == 0) {
    recorded.clear();
  }
  for (int i = 0; i < n; i++) {
    recorded.push_back(tasks[i].id);
  }
  write(nullptr);
}

void record_chained(const pg_uuid_t& id) { write(&id); }

}  // namespace underway
