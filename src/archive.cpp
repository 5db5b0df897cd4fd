#include "archive.hpp"

#include "clock.hpp"
#include "entry.hpp"
#include "pg/statement.hpp"
#include "pg/table.hpp"
#include "wake.hpp"

namespace underway {

namespace {

// Where a column of the archive comes from: the task's column of that number, or one of these.
enum : AttrNumber {
  from_nowhere = 0,  // null
  the_slot = -1,
  the_state = -2,
  the_end = -3,
  the_output = -4,
  the_notices = -5
};

// What is known of both tables; each column goes to the one of its name.
struct {
  pg::layout of_task;
  pg::layout of_archive;
  pg::layout of_rings;
  AttrNumber id, attempt, state, queue_id, key;
  AttrNumber sources[MaxTupleAttributeNumber];
  int open_slot;
  Oid open_archive;
} map;

AttrNumber source_of(const char* name, TupleDesc task) {
  static constexpr struct {
    const char* name;
    AttrNumber from;
  } ours[] = {{"slot", the_slot},
              {"state", the_state},
              {"finished_at", the_end},
              {"output", the_output},
              {"notices", the_notices}};
  for (const auto& o : ours) {
    if (strcmp(o.name, name) == 0) {
      return o.from;
    }
  }
  return pg::column_named(task, strcmp(name, "started_at") == 0 ? "claimed_at" : name);
}

void find_columns(TupleDesc task) {
  map.id = pg::column_named(task, "id");
  map.attempt = pg::column_named(task, "attempt");
  map.state = pg::column_named(task, "state");
  map.queue_id = pg::column_named(task, "queue_id");
  map.key = pg::column_named(task, "key");
}

void find_sources(TupleDesc archive, TupleDesc task) {
  for (int n = 0; n < archive->natts; n++) {
    const FormData_pg_attribute* a = TupleDescAttr(archive, n);
    map.sources[n] =
        a->attisdropped ? AttrNumber{from_nowhere} : source_of(NameStr(a->attname), task);
  }
}

// The number of the table that rows go to now; the coordinator may not have opened any yet.
int read_open_slot(Oid ring_slot) {
  pg::table rings;
  rings.open(ring_slot, AccessShareLock);
  ScanKeyData key;
  ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, TEXTOID, DEFAULT_COLLATION_OID,
                         F_TEXTEQ, CStringGetTextDatum("succeeded"));
  rings.scan(pg::relation_named("ring_slot_open"), &key, 1);
  const int slot =
      rings.next() ? DatumGetInt16(rings.value(pg::column_named(rings.columns(), "slot"))) : 0;
  rings.close();
  return slot;
}

void open_archive(pg::table* archive, TupleDesc task, bool task_known) {
  const Oid rings = pg::relation_named("ring_slot");
  if (!map.of_rings.is_known(rings)) {
    map.open_slot = read_open_slot(rings);
    map.open_archive = pg::relation_named(psprintf("archive_%d", map.open_slot));
    map.of_rings.learn(rings);
  }
  archive->open(map.open_archive);
  if (!map.of_archive.is_known(map.open_archive) || !task_known) {
    find_sources(archive->columns(), task);
    map.of_archive.learn(map.open_archive);
  }
}

bool is_in_progress(Datum state) {
  const text* t = DatumGetTextPP(state);
  constexpr const char* expected = "in_progress";
  return VARSIZE_ANY_EXHDR(t) == strlen(expected) &&
         memcmp(VARDATA_ANY(t), expected, strlen(expected)) == 0;
}

bool take_out(pg::table* task, Oid index, const success& s) {
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(s.id));
  task->scan(index, &key, 1);
  return task->next() && task->int4(map.attempt) == s.attempt &&
         is_in_progress(task->value(map.state)) && task->remove() == pg::changed::yes;
}

void put(pg::table* archive, const pg::table& task, const success& s, Datum succeeded,
         TimestampTz now) {
  archive->begin_row();
  for (int n = 0; n < archive->columns()->natts; n++) {
    const auto to = static_cast<AttrNumber>(n + 1);
    const AttrNumber from = map.sources[n];
    switch (from) {
      case from_nowhere:
        break;
      case the_slot:
        archive->set(to, Int16GetDatum(map.open_slot));
        break;
      case the_state:
        archive->set(to, succeeded);
        break;
      case the_end:
        archive->set(to, TimestampTzGetDatum(now));
        break;
      case the_output:
        archive->set(to, JsonbPGetDatum(s.output), s.output == nullptr);
        break;
      case the_notices:
        if (s.notices != nullptr) {
          archive->set(to, CStringGetTextDatum(s.notices));
        }
        break;
      default:
        archive->set(to, task.value(from), task.null(from));
    }
  }
  archive->insert();
}

}  // namespace

int archive_succeeded(bool kept, success* tasks, int n) {
  static pg::statement forget_key(
      "DELETE FROM underway_internal.task_key k WHERE k.queue_id = $1 AND k.key = $2 AND k.task_id "
      "= $3",
      INT4OID, TEXTOID, UUIDOID);
  int moved = 0;
  pg::call([&] {
    const TimestampTz now = transaction_clock();
    const Datum succeeded = CStringGetTextDatum("succeeded");
    PushActiveSnapshot(GetTransactionSnapshot());
    const Oid relation = pg::relation_named("task");
    const Oid index = pg::relation_named("task_pkey");
    pg::table task;
    pg::table archive;
    task.open(relation);
    const bool known = map.of_task.is_known(relation);
    if (!known) {
      find_columns(task.columns());
    }
    if (kept) {
      open_archive(&archive, task.columns(), known);
    }
    map.of_task.learn(relation);
    for (int i = 0; i < n; i++) {
      if (!take_out(&task, index, tasks[i])) {
        continue;
      }
      tasks[i].moved = true;
      moved++;
      note_finished(tasks[i].id, 1);
      if (kept) {
        put(&archive, task, tasks[i], succeeded, now);
      } else if (!task.null(map.key)) {
        const pg::value key[3] = {pg::of_datum(task.value(map.queue_id), false),
                                  pg::of_datum(task.value(map.key), false), pg::of(tasks[i].id)};
        forget_key.run(key);
      }
    }
    task.close();
    if (kept) {
      archive.close();
    }
    PopActiveSnapshot();
    CommandCounterIncrement();
  });
  return moved;
}

// The open table of a ring is another from the commit of this transaction on.
UNDERWAY_ENTRY(underway_ring_moved) {
  pg::call([] { CacheInvalidateRelcacheByRelid(pg::relation_named("ring_slot")); });
  PG_RETURN_BOOL(true);
}

// underway_internal.complete_tasks(kept, ids, attempts, outputs)
UNDERWAY_ENTRY(underway_complete_tasks) {
  int n = 0;
  success* tasks = nullptr;
  pg::call([&] {
    Datum* ids = nullptr;
    Datum* attempts = nullptr;
    Datum* outputs = nullptr;
    bool* none = nullptr;
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &ids,
                      nullptr, &n);
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), INT4OID, sizeof(int32), true, TYPALIGN_INT,
                      &attempts, nullptr, &n);
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), JSONBOID, -1, false, TYPALIGN_INT, &outputs, &none,
                      &n);
    tasks = static_cast<success*>(palloc(sizeof(success) * static_cast<Size>(n)));
    for (int i = 0; i < n; i++) {
      tasks[i] = {DatumGetUUIDP(ids[i]), DatumGetInt32(attempts[i]),
                  none[i] ? nullptr : DatumGetJsonbP(outputs[i]), nullptr, false};
    }
  });
  (void)archive_succeeded(PG_GETARG_BOOL(0), tasks, n);
  return pg::call([&] {
    auto moved = static_cast<Datum*>(palloc(sizeof(Datum) * static_cast<Size>(n)));
    int count = 0;
    for (int i = 0; i < n; i++) {
      if (tasks[i].moved) {
        moved[count++] = UUIDPGetDatum(tasks[i].id);
      }
    }
    return pg::array_of(UUIDOID, moved, count);
  });
}

}  // namespace underway
