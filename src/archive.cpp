#include "archive.hpp"

#include "archive_table.hpp"
#include "clock.hpp"
#include "entry.hpp"
#include "pg/statement.hpp"
#include "task_table.hpp"
#include "wake.hpp"

namespace underway {

int archive_succeeded(bool kept, success* tasks, int n) {
  static pg::statement forget_key(
      "DELETE FROM underway_internal.task_key k WHERE k.queue_id = $1 AND k.key = $2 AND k.task_id "
      "= $3",
      INT4OID, TEXTOID, UUIDOID);
  int moved = 0;
  pg::call([&] {
    const TimestampTz now = transaction_clock();
    PushActiveSnapshot(GetTransactionSnapshot());
    pg::table task;
    open_tasks(&task);
    if (kept) {
      task_archive.open(task, n > 1);
    }
    for (int i = 0; i < n; i++) {
      if (!take_out(&task, tasks[i].id, tasks[i].attempt, tasks[i].at)) {
        continue;
      }
      tasks[i].moved = true;
      moved++;
      note_finished(*tasks[i].id);
      if (kept) {
        task_archive.put(task, tasks[i].output, tasks[i].notices, now);
      } else if (!task.null(of_task[task_column::key])) {
        const pg::value key[3] = {pg::of_datum(task.value(of_task[task_column::queue_id]), false),
                                  pg::of_datum(task.value(of_task[task_column::key]), false),
                                  pg::of(tasks[i].id)};
        forget_key.run(key);
      }
    }
    task.close();
    if (kept) {
      task_archive.close();
    }
    PopActiveSnapshot();
    CommandCounterIncrement();
  });
  return moved;
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
      tasks[i] = {DatumGetUUIDP(ids[i]),
                  DatumGetInt32(attempts[i]),
                  none[i] ? nullptr : DatumGetJsonbP(outputs[i]),
                  nullptr,
                  {},
                  false};
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
