#include "complete.hpp"

#include "archive.hpp"
#include "claim_record.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "step.hpp"

namespace underway {

namespace {

pg::statement again("SELECT underway_internal.run_again($1, $2, $3, $4, $5)", UUIDOID, INT4OID,
                    INTERVALOID, JSONBOID, TEXTOID);
pg::statement give_up(
    "SELECT underway_internal.fail_task($1, $2, false, NULL, 'gave up', $3, NULL, $4, NULL, NULL, "
    "NULL, $5) <> 'lost'",
    UUIDOID, INT4OID, JSONBOID, TEXTOID, TEXTOID);

void run_fenced(pg::statement* statement, const pg::value* args) {
  bool held = false;
  statement->run(args, [&held](const pg::row& r) { held = r.boolean(1); });
  if (!held) {
    raise_lost();
  }
}

pg::value text_or_null(const char* text) {
  pg::value v;
  pg::call([&] { v = pg::of_text(text); });
  return v;
}

pg::value jsonb_or_null(const Jsonb* j) { return pg::of_datum(JsonbPGetDatum(j), j == nullptr); }

// What only a step of a workflow may decide.
void refuse_decision(const result& r) {
  pg::call([&r] {
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("%s() says what comes next, and this task is not a step of a workflow "
                           "with steps after it",
                           r.what == action::go_to    ? "go_to"
                           : r.what == action::finish ? "finish"
                                                      : "next"),
                    errhint("Return the output itself.")));
  });
}

}  // namespace

namespace {

// A read-only transaction is a promise about the handler's effects; the task's end is ours to
// write.
class writable {
 public:
  writable() noexcept : read_only_(XactReadOnly) { XactReadOnly = false; }
  ~writable() { XactReadOnly = read_only_; }
  writable(const writable&) = delete;
  writable& operator=(const writable&) = delete;

 private:
  bool read_only_;
};

// There the server relies on the promise (predicate.c): the end could not be written without
// breaking it.
void refuse_serializable_read_only() {
  if (XactReadOnly && IsolationIsSerializable()) {
    ereport(
        ERROR,
        (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
         errmsg("a handler cannot end in a transaction that is both SERIALIZABLE and READ ONLY"),
         errdetail("The end of its task is written in the same transaction."),
         errhint("Give up one of the two: default_transaction_isolation or "
                 "default_transaction_read_only.")));
  }
}

}  // namespace

void raise_lost() {
  pg::call([] {
    ereport(ERROR,
            (errcode(MAKE_SQLSTATE('U', 'W', '0', '0', '1')),
             errmsg("this attempt is no longer the task's"),
             errdetail("The task was reclaimed, or ended otherwise, while the handler ran.")));
  });
}

void complete(const queue_info* q, const claimed_task* tasks, const finished_task* results, int n,
              following* next) {
  pg::call(refuse_serializable_read_only);
  following none;
  none.memory = CurrentMemoryContext;
  for (int i = 0; i < n; i++) {
    const result& r = results[i].outcome;
    if ((r.decided || r.what == action::go_to || r.what == action::finish) &&
        (!tasks[i].of_run || !q->workflow || find_step(q, tasks[i])->alone)) {
      refuse_decision(r);
    }
  }
  pg::as_owner owner(true);
  writable for_us;
  int done = 0;
  success* ended = nullptr;
  pg::call([&] {
    ended = static_cast<success*>(palloc(sizeof(success) * static_cast<Size>(n)));
    for (int i = 0; i < n; i++) {
      if (results[i].outcome.what == action::done && !tasks[i].of_run) {
        ended[done++] = {&tasks[i].id,       tasks[i].attempt, results[i].outcome.output,
                         results[i].notices, tasks[i].at,      false};
      }
    }
  });
  if (done > 0 && archive_succeeded(q->keep_succeeded, ended, done) != done) {
    raise_lost();
  }
  for (int i = 0; i < n; i++) {
    const result& r = results[i].outcome;
    if (r.what == action::again) {
      const pg::value with[5] = {pg::of(&tasks[i].id), pg::of(tasks[i].attempt), pg::of(&r.delay),
                                 jsonb_or_null(r.input), text_or_null(results[i].notices)};
      run_fenced(&again, with);
    } else if (r.what == action::give_up) {
      const pg::value with[5] = {pg::of(&tasks[i].id), pg::of(tasks[i].attempt),
                                 jsonb_or_null(r.output), text_or_null(r.error),
                                 text_or_null(results[i].notices)};
      run_fenced(&give_up, with);
    } else if (tasks[i].of_run) {
      complete_step(q, tasks[i], results[i], next != nullptr ? next : &none);
    }
  }
  if (next != nullptr && next->found) {
    pg::call([next] { record_chained(next->task.id); });
  }
}

}  // namespace underway
