// run_inline: the tasks that a transaction has made, worked in it, for tests. Runs in: client
// backends. Error discipline: an entry, which catches: an attempt is a subtransaction, and when
// that is gone its failure is recorded, as execute.cpp does for workers. What would end the
// statement anyway (a cancel) is thrown on. Invariants:
//   - only rows of this transaction are worked (sql/94_inline.sql), so that nobody waits for it,
//   and none stays in progress;
//   - finding, calling, completing and failing are the workers' own code;
//   - nothing of a handler reaches the caller's session: identity and settings are as before on
//   every way out.
#include "clock.hpp"
#include "complete.hpp"
#include "entry.hpp"
#include "pg/compat.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/subtransaction.hpp"
#include "retry.hpp"
#include "session.hpp"
#include "task_function.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <vector>

namespace underway {

namespace {

// A nudge is no task to whoever calls; but even they end.
constexpr int64 nudges_for_each_task = 10;

pg::statement next_tasks("SELECT * FROM underway_internal.next_inline($1, $2)", UUIDOID,
                         INT4ARRAYOID);
pg::statement claim("SELECT * FROM underway_internal.claim_inline($1, $2, $3, $4)", UUIDOID,
                    INT4OID, TEXTOID, INT8OID);
pg::statement tend("SELECT underway_internal.tend_inline($1)", UUIDOID);
pg::statement report("SELECT * FROM underway_internal.report_inline($1, $2)", UUIDOID,
                     UUIDARRAYOID);

// Of a handler: its queue's owner, from whom there is no way to another role, and its queue's
// settings.
class handler_session {
 public:
  explicit handler_session(const queue_info& q) {
    GetUserIdAndSecContext(&user_, &security_);
    nest_ = NewGUCNestLevel();
    SetUserIdAndSecContext(q.owner, security_ | SECURITY_LOCAL_USERID_CHANGE);
    try {
      pg::call([&q] { apply_settings(q.settings, q.owner); });
    } catch (...) {
      leave();
      throw;
    }
  }
  ~handler_session() { leave(); }
  handler_session(const handler_session&) = delete;
  handler_session& operator=(const handler_session&) = delete;

 private:
  void leave() noexcept {
    current_task = nullptr;
    AtEOXact_GUC(false, nest_);  // also what the handler has SET
    SetUserIdAndSecContext(user_, security_);
  }
  Oid user_;
  int security_;
  int nest_;
};

// Deferred constraints and triggers. A worker fires a handler's when that has ended; what the
// caller's transaction has queued would have been checked before any worker saw its tasks.
class deferred_triggers {
 public:
  // As the extension's owner.
  void find() {
    static pg::statement relations(
        "SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger t WHERE t.tgdeferrable");
    static pg::statement constraints(
        "SELECT DISTINCT n.nspname::text, c.conname::text FROM pg_catalog.pg_constraint c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace WHERE c.condeferred"
        " AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o WHERE o.connamespace = "
        "c.connamespace AND o.conname = c.conname AND NOT o.condeferrable)");
    pg::as_owner owner(true);
    MemoryContext memory = CurrentMemoryContext;
    List* oids = NIL;
    List* names = NIL;
    relations.run(nullptr, [&](const pg::row& r) {
      MemoryContext old = MemoryContextSwitchTo(memory);
      oids = lappend_oid(oids, r.oid(1));
      MemoryContextSwitchTo(old);
    });
    constraints.run(nullptr, [&](const pg::row& r) {
      MemoryContext old = MemoryContextSwitchTo(memory);
      names = lappend(names, makeRangeVar(r.text(1, memory), r.text(2, memory), -1));
      MemoryContextSwitchTo(old);
    });
    relations_ = oids;
    deferred_ = names;
  }

  // Server code, inside pg::call. As whoever is the user now.
  void fire() const {
    ListCell* cell = nullptr;
    bool pending = false;
    foreach (cell, relations_) {
      pending = pending || AfterTriggerPendingOnRel(lfirst_oid(cell));
    }
    if (!pending) {
      return;
    }
    ConstraintsSetStmt* set = makeNode(ConstraintsSetStmt);
    set->deferred = false;
    AfterTriggerSetState(set);
    if (deferred_ != NIL) {
      // Back to what they are at the beginning of a transaction. Names are looked up with the
      // rights of the user, who need not have any on the schemas. An error restores the user by the
      // abort.
      Oid user = InvalidOid;
      int security = 0;
      GetUserIdAndSecContext(&user, &security);
      SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, security | SECURITY_LOCAL_USERID_CHANGE);
      set->constraints = deferred_;
      set->deferred = true;
      AfterTriggerSetState(set);
      SetUserIdAndSecContext(user, security);
    }
  }

 private:
  List* relations_ = NIL;
  List* deferred_ = NIL;
};

struct worked {
  pg_uuid_t id;
  const char* queue;
  const char* step;
  const char* state;  // after its last attempt
  const char* error;
};

struct look_result {
  int count = 0;
  Datum* ids = nullptr;
  Datum* queues = nullptr;
  TimestampTz next_at = DT_NOEND;
  bool any = false;
  pg_uuid_t lowest = {};
};

class inline_run {
 public:
  inline_run(Oid caller, int max_tasks)
      : caller_(caller),
        tasks_left_(max_tasks),
        nudges_left_(max_tasks * nudges_for_each_task),
        first_(least_own_id()) {
    pg::call([this] {
      memory_ = CurrentMemoryContext;
      scratch_ = AllocSetContextCreate(memory_, "underway inline attempt", ALLOCSET_DEFAULT_SIZES);
      worker_ = psprintf("run_inline (pid %d)", MyProcPid);
    });
  }

  void run() {
    forget_steps();
    triggers_.find();
    pg::call([this] { triggers_.fire(); });
    pg_uuid_t from = first_;
    while (tasks_left_ > 0 && nudges_left_ > 0) {
      pg::call([this] {
        CHECK_FOR_INTERRUPTS();
        MemoryContextReset(scratch_);
      });
      const look_result found = look(from);
      if (found.count > 0) {
        from = found.lowest;
        for (int i = 0; i < found.count && tasks_left_ > 0; i++) {
          work(*DatumGetUUIDP(found.ids[i]), DatumGetInt32(found.queues[i]));
        }
      } else if (memcmp(&from, &first_, sizeof from) != 0) {
        from = first_;  // one that ended may have been re-opened
      } else if (!tend_runs()) {
        if (found.next_at == DT_NOEND) {
          return;
        }
        move_transaction_clock(found.next_at);
      }
    }
  }

  void show(FunctionCallInfo fcinfo) {
    auto rsinfo = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    pg::as_owner owner(true);
    pg::value args[2] = {pg::of(&first_), {}};
    pg::call([&] {
      auto ids = static_cast<Datum*>(palloc(sizeof(Datum) * std::max<Size>(worked_.size(), 1)));
      for (size_t n = 0; n < worked_.size(); n++) {
        ids[n] = UUIDPGetDatum(&worked_[n].id);
      }
      args[1] = pg::of_datum(worked_.empty()
                                 ? PointerGetDatum(construct_empty_array(UUIDOID))
                                 : pg::array_of(UUIDOID, ids, static_cast<int>(worked_.size())),
                             false);
    });
    report.run(args, [&](const pg::row& r) {
      const pg_uuid_t id = r.uuid(2);
      const worked* w = r.null(1) ? nullptr : &worked_[static_cast<size_t>(r.int4(1) - 1)];
      put(rsinfo, id, w != nullptr ? w->queue : r.text(3, CurrentMemoryContext),
          w != nullptr ? w->step : r.text(4, CurrentMemoryContext),
          r.null(5) && w != nullptr ? w->state : r.text(5, CurrentMemoryContext),
          r.null(5) && w != nullptr ? w->error : r.text(6, CurrentMemoryContext));
    });
  }

 private:
  static void put(ReturnSetInfo* rsinfo, const pg_uuid_t& id, const char* queue, const char* step,
                  const char* state, const char* error) {
    Datum values[5] = {UUIDPGetDatum(&id)};
    bool nulls[5] = {};
    const char* texts[] = {queue, step, state, error};
    for (int n = 0; n < 4; n++) {
      nulls[n + 1] = texts[n] == nullptr;
      values[n + 1] = texts[n] == nullptr ? Datum{0} : CStringGetTextDatum(texts[n]);
    }
    tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
  }

  look_result look(const pg_uuid_t& from) {
    look_result found;
    pg::as_owner owner(true);
    pg::value args[2] = {pg::of(&from), {}};
    pg::call([&] {
      auto ids = static_cast<Datum*>(palloc(sizeof(Datum) * std::max<Size>(blocked_.size(), 1)));
      for (size_t n = 0; n < blocked_.size(); n++) {
        ids[n] = Int32GetDatum(blocked_[n]);
      }
      args[1] = pg::of_datum(blocked_.empty()
                                 ? PointerGetDatum(construct_empty_array(INT4OID))
                                 : pg::array_of(INT4OID, ids, static_cast<int>(blocked_.size())),
                             false);
    });
    next_tasks.run(args, [&](const pg::row& r) {
      if (!r.null(3)) {
        found.next_at = r.time(3);
      }
      if (!r.null(4)) {
        found.lowest = r.uuid(4);
      }
      if (r.null(1)) {
        return;
      }
      MemoryContext old = MemoryContextSwitchTo(scratch_);
      deconstruct_array(DatumGetArrayTypePCopy(r.get(1).datum), UUIDOID, UUID_LEN, false,
                        TYPALIGN_CHAR, &found.ids, nullptr, &found.count);
      deconstruct_array(DatumGetArrayTypePCopy(r.get(2).datum), INT4OID, sizeof(int32), true,
                        TYPALIGN_INT, &found.queues, nullptr, &found.count);
      MemoryContextSwitchTo(old);
    });
    return found;
  }

  bool tend_runs() {
    bool moved = false;
    pg::as_owner owner(true);
    const pg::value first = pg::of(&first_);
    tend.run(&first, [&moved](const pg::row& r) { moved = r.boolean(1); });
    return moved;
  }

  // One attempt of one task.
  void work(const pg_uuid_t& id, int queue_id) {
    queue_info q;
    if (!read_queue(queue_id, &q, scratch_) || q.why != obstacle::none) {
      blocked_.push_back(queue_id);
      return;
    }
    if (!pg::call([&] { return pg::can_become(caller_, q.owner); })) {
      refuse(q);
    }
    claimed_task task = {};
    if (!claim_task(id, q, &task)) {
      return;  // one before it has ended or moved it
    }
    const bool nudge = task.of_run && task.step == nullptr;
    (nudge ? nudges_left_ : tasks_left_)--;
    worked now = {id, nullptr, nullptr, "succeeded", nullptr};
    std::optional<pg::error> failure;
    for (int tries = 0;; tries++) {
      failure.reset();
      try {
        attempt(q, task, &now);
        break;
      } catch (pg::error& e) {
        failure.emplace(std::move(e));
      }
      forget_steps();  // perhaps of versions that are gone with the subtransaction
      if (failure->sqlstate() == ERRCODE_QUERY_CANCELED) {
        throw std::move(*failure);
      }
      if (!is_transient(failure->sqlstate()) || tries >= transient_retries) {
        break;
      }
    }
    if (failure) {
      if (failure->sqlstate() == ERRCODE_INVALID_TRANSACTION_TERMINATION) {
        failure->suggest("A procedure that commits cannot be run by run_inline().");
      }
      now.state = fail_attempt(task, *failure, nullptr, memory_);
      pg::call([&] {
        now.error = MemoryContextStrdup(
            memory_, failure->data().message != nullptr ? failure->data().message : "");
      });
    }
    if (!nudge) {
      remember(now, q, task);
    }
  }

  [[noreturn]] void refuse(const queue_info& q) const {
    pg::call([&] {
      ereport(ERROR,
              (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
               errmsg("role \"%s\" cannot run what belongs to role \"%s\", the owner of %s \"%s\"",
                      GetUserNameFromId(caller_, true), GetUserNameFromId(q.owner, true),
                      q.workflow ? "workflow" : "queue", q.name),
               errhint("Call run_inline() as the owner, or as a member of that role.")));
    });
    pg_unreachable();
  }

  bool claim_task(const pg_uuid_t& id, const queue_info& q, claimed_task* t) {
    bool claimed = false;
    pg::as_owner owner(true);
    pg::value args[4] = {pg::of(&id), pg::of(q.max_attempts), {}, pg::of(shared->boot)};
    pg::call([&] { args[2] = pg::of_text(worker_); });
    claim.run(args, [&](const pg::row& r) {
      claimed = true;
      t->id = r.uuid(1);
      t->attempt = r.int4(2);
      t->input = r.jsonb(3, scratch_);
      t->headers = r.jsonb(4, scratch_);
      t->timeout = r.interval(5, scratch_);
      t->last_attempt = r.boolean(6);
      t->of_run = !r.null(7);
      if (t->of_run) {
        t->run_id = r.uuid(7);
        t->version = r.int4(8);
        t->step = r.text(9, scratch_);
        t->item = r.null(10) ? 0 : r.int4(10);
        t->phase = r.text(11, scratch_);
      }
    });
    return claimed;
  }

  void attempt(const queue_info& q, const claimed_task& task, worked* now) {
    following next;
    next.memory = scratch_;
    {
      pg::subtransaction sub;
      task_function function(&q, task);
      finished_task done = {};
      if (!function.is_nothing()) {
        call(q, task, &function, &done.outcome);
      }
      complete(&q, &task, &done, 1, &next);
      sub.release();
      now->state = done.outcome.what == action::give_up ? "failed"
                   : done.outcome.what == action::again ? "pending"
                                                        : "succeeded";
      pg::call([&] {
        now->error = done.outcome.error == nullptr
                         ? nullptr
                         : MemoryContextStrdup(memory_, done.outcome.error);
      });
    }
    if (next.look != nullptr) {
      look_at_map(task, next.look);
    }
  }

  void call(const queue_info& q, const claimed_task& task, task_function* function, result* to) {
    handler_session session(q);
    function->find();
    pg::call([&] {
      bool begun = false;
      function->prepare();
      current_task = &task;
      CommandCounterIncrement();
      *to = function->run(task.input, scratch_, &begun, false);
      triggers_.fire();
    });
  }

  void remember(worked now, const queue_info& q, const claimed_task& task) {
    std::array<unsigned char, UUID_LEN> key;
    std::copy(now.id.data, now.id.data + UUID_LEN, key.begin());
    const auto [at, is_new] = places_.emplace(key, worked_.size());
    if (is_new) {
      pg::call([&] {
        now.queue = MemoryContextStrdup(memory_, q.name);
        now.step = task.step == nullptr ? nullptr : MemoryContextStrdup(memory_, task.step);
      });
      worked_.push_back(now);
    } else {
      worked_[at->second].state = now.state;
      worked_[at->second].error = now.error;
    }
  }

  Oid caller_;
  int64 tasks_left_;
  int64 nudges_left_;
  pg_uuid_t first_;
  MemoryContext memory_ = nullptr;   // of the whole call
  MemoryContext scratch_ = nullptr;  // of what is worked between two looks
  char* worker_ = nullptr;
  deferred_triggers triggers_;
  std::vector<int> blocked_;
  std::vector<worked> worked_;
  std::map<std::array<unsigned char, UUID_LEN>, size_t> places_;
};

}  // namespace

UNDERWAY_ENTRY(underway_run_inline) {
  pg::call([fcinfo] {
    require_preload();
    if (current_task != nullptr) {
      ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                      errmsg("run_inline() cannot be called in a handler"),
                      errhint("What a handler enqueues is run once it has ended.")));
    }
    if (PG_ARGISNULL(0) || PG_GETARG_INT32(0) < 1) {
      ereport(ERROR,
              (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
               PG_ARGISNULL(0) ? errmsg("max_tasks must not be null")
                               : errmsg("max_tasks must be at least 1, not %d", PG_GETARG_INT32(0)),
               errhint("Leave it out to run up to 10000.")));
    }
    InitMaterializedSRF(fcinfo, 0);
  });
  begin_transaction_clock();
  inline_run run(GetUserId(), PG_GETARG_INT32(0));
  run.run();
  run.show(fcinfo);
  return Datum{0};
}

}  // namespace underway
