#include "execute.hpp"

#include "clock.hpp"
#include "complete.hpp"
#include "dequeue.hpp"
#include "notices.hpp"
#include "pg/transaction.hpp"
#include "process.hpp"
#include "retry.hpp"
#include "session.hpp"
#include "settings.hpp"
#include "task_function.hpp"
#include "task_lock.hpp"
#include "waitpoint.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

namespace underway {

namespace {

constexpr int most_in_a_row = 20;  // steps of one run, before others have their turn
constexpr Size most_memory = Size{64} * 1024 * 1024;

int milliseconds(const Interval* i) noexcept {
  const double ms = static_cast<double>(i->time) / 1000.0 + (i->day + i->month * 30.0) * 86400000.0;
  return ms >= INT_MAX ? INT_MAX : ms < 1 ? 1 : static_cast<int>(ms);
}

int timeout_of(const queue_info* q, const claimed_task& task) noexcept {
  return task.timeout != nullptr ? milliseconds(task.timeout)
         : q->timeout != nullptr ? milliseconds(q->timeout)
                                 : settings::default_timeout;
}

void show(const queue_info* q, const claimed_task& task) {
  SpinLockAcquire(&my_slot->mutex);
  my_slot->running = true;
  my_slot->task_id = task.id;
  my_slot->attempt = task.attempt;
  my_slot->task_started_at = GetCurrentTimestamp();
  my_slot->progress[0] = '\0';
  SpinLockRelease(&my_slot->mutex);
  char text[384];
  char* id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&task.id)));
  if (task.of_run && task.step != nullptr) {
    snprintf(text, sizeof text, "underway: %s, step \"%s\", task %s, attempt %d", q->name,
             task.step, id, task.attempt);
  } else {
    snprintf(text, sizeof text, "underway: %s, task %s, attempt %d", q->name, id, task.attempt);
  }
  pgstat_report_activity(STATE_RUNNING, text);
  pfree(id);
}

TimeoutId grace_timer;

// In a signal handler. The handler has caught its timeout and goes on.
void end_of_grace() {
  my_slot->died = death::timed_out;
  die(SIGTERM);
}

// The handler has ended, well or by an error. A cancel is sent under the slot's lock while its task
// is running there; the system call makes one that was sent by then arrive, and what arrived is
// forgotten: it hits neither our bookkeeping nor the next task. True: the task was cancelled while
// it ran.
bool end_of_user_code() noexcept {
  SpinLockAcquire(&my_slot->mutex);
  my_slot->running = false;
  const bool cancelled = my_slot->cancelled_at.exchange(0) != 0;
  SpinLockRelease(&my_slot->mutex);
  if (cancelled) {
    (void)getppid();
  }
  const DisableTimeoutParams timeouts[] = {{STATEMENT_TIMEOUT, false}, {grace_timer, false}};
  disable_timeouts(timeouts, lengthof(timeouts));
  process::hold_cancels();
  process::forget_cancels();
  current_task = nullptr;
  PortalContext = nullptr;  // one that failed has left it
  return cancelled;
}

class attempt {
 public:
  attempt(queue_info* q, MemoryContext memory, following* next, const execution* last) noexcept
      : q_(q), memory_(memory), next_(next), last_(last) {}

  // All of them in one transaction. Throws; then `culprit` is the task whose handler raised, or -1.
  void run(const claimed_task* tasks, int n) {
    function_ = task_function(q_, tasks[0]);
    if (function_.is_nothing()) {
      run_nothing(tasks[0]);
      return;
    }
    renew_session(q_->settings);
    pg::transaction tx(pg::transaction::kind::session);
    results_ = static_cast<finished_task*>(pg::call([&] {
      return MemoryContextAllocZero(memory_, sizeof(finished_task) * static_cast<Size>(n));
    }));
    function_.find();
    pg::call([&] {
      if (q_->async && !flushed(tasks, n)) {
        (void)set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
                                GUC_ACTION_LOCAL, true, 0, false);
      }
      for (int i = 0; i < n; i++) {
        lock_task(tasks[i].id);
      }
    });
    for (int i = 0; i < n; i++) {
      culprit = i;
      run_one(tasks[i], &results_[i]);
    }
    culprit = n == 1 ? 0 : -1;
    pg::call([&] {
      waitpoint(waitpoint_id::handler_done);
      if (flushed(tasks, n)) {
        ForceSyncCommit();
      }
    });
    complete(q_, tasks, results_, n, next_);
    keep_claim();
    if (last_ != nullptr && (next_ == nullptr || !next_->found) && !flushed(tasks, n) &&
        !IsolationUsesXactSnapshot() && !XactReadOnly) {
      last_->claim_ahead();
    }
    pg::call([] { waitpoint(waitpoint_id::finished); });
    tx.commit();
  }

  int culprit = -1;
  bool begun = false;  // some handler was entered

 private:
  // What waited for the time, a signal or others, and a nudge: finishing it is all there is to do.
  void run_nothing(const claimed_task& task) {
    pg::transaction tx(pg::transaction::kind::ours);
    finished_task none = {};
    complete(q_, &task, &none, 1, next_);
    keep_claim();
    tx.commit();
  }

  // What runs next must be known to run (promise 4); under async the claim may be lost together
  // with the effects before it.
  void keep_claim() {
    if (next_ != nullptr && next_->found && !q_->async) {
      pg::call([] { ForceSyncCommit(); });
    }
  }

  // With a suspect: its end could be lost with the next crash, and be charged to it.
  static bool flushed(const claimed_task* tasks, int n) noexcept {
    return std::any_of(tasks, tasks + n, [](const claimed_task& t) { return t.crashes > 0; });
  }

  void run_one(const claimed_task& task, finished_task* to) {
    pg::call([&] {
      function_.prepare();
      current_task = &task;
      start_notices();
      const int timeout = timeout_of(q_, task);
      process::forget_cancels();
      show(q_, task);
      process::allow_cancels();
      const int in_the_end =
          std::min(timeout, INT_MAX - settings::cancel_grace) + settings::cancel_grace;
      const EnableTimeoutParams timeouts[] = {{STATEMENT_TIMEOUT, TMPARAM_AFTER, timeout, 0},
                                              {grace_timer, TMPARAM_AFTER, in_the_end, 0}};
      enable_timeouts(timeouts, lengthof(timeouts));
      to->outcome = function_.run(task.input, memory_, &begun, true);
      // Deferred constraints and triggers are the handler's doing: they run within its time, where
      // they can be cancelled, and an error of theirs is this task's and not that of its batch.
      // Nothing of a user is left for the commit.
      AfterTriggerFireDeferred();
      (void)end_of_user_code();  // cancelled too late: it has run
      const char* notices = stop_notices();
      to->notices = notices == nullptr ? nullptr : MemoryContextStrdup(memory_, notices);
    });
  }

  queue_info* q_;
  MemoryContext memory_;
  following* next_;
  const execution* last_;
  task_function function_;
  finished_task* results_ = nullptr;
};

// Looks again, since the queue was read: the handler may have been dropped or altered between claim
// and call.
bool still_runnable(queue_info* q) {
  pg::transaction tx(pg::transaction::kind::ours);
  const obstacle why = pg::call([q] { return check_handler(q); });
  tx.commit();
  q->why = why;
  return why == obstacle::none;
}

// What is to be recorded is recorded, however often that takes, within reason: after that the
// process ends, and the attempt is lost.
template <class F> void persist(F&& record) {
  constexpr int most_failures = 20;
  for (int failures = 0;;) {
    try {
      record();
      process::recovered(&failures);
      return;
    } catch (pg::error& e) {
      if (failures == most_failures) {
        throw;
      }
      process::endure(e, &failures);
    }
  }
}

// last: these are the last of those that were claimed together; else null.
void run_together(queue_info* q, claimed_task* tasks, int n, MemoryContext memory, following* next,
                  const execution* last);

// One failed: it alone, then the others as a smaller batch. None in particular (at the commit):
// halves.
void run_apart(queue_info* q, claimed_task* tasks, int n, int culprit, MemoryContext memory) {
  if (culprit >= 0) {
    std::swap(tasks[0], tasks[culprit]);
    run_together(q, tasks, 1, memory, nullptr, nullptr);
    run_together(q, tasks + 1, n - 1, memory, nullptr, nullptr);
  } else {
    run_together(q, tasks, n / 2, memory, nullptr, nullptr);
    run_together(q, tasks + n / 2, n - n / 2, memory, nullptr, nullptr);
  }
}

// Two that got in each other's way would do so again: the one that lost is the first to be back. 1
// ms, longer each time, and never the same for both. No transaction is open.
void step_aside(int tries) noexcept {
  const double most = 2000 << std::min(tries, 6);
  pg_usleep(static_cast<long>(most * (0.5 + pg_prng_double(&pg_global_prng_state) / 2)));
}

void run_together(queue_info* q, claimed_task* tasks, int n, MemoryContext memory, following* next,
                  const execution* last) {
  if (n == 0) {
    return;
  }
  std::optional<pg::error> failure;
  int culprit = -1;
  for (int tries = 0;; tries++) {
    attempt a(q, memory, next, last);
    failure.reset();
    try {
      a.run(tasks, n);
      return;
    } catch (pg::error& e) {
      failure.emplace(std::move(e));
    }
    if (next != nullptr) {
      next->found = false;
      next->look = nullptr;
    }
    if (last != nullptr) {
      last->forget_ahead();
    }
    const bool cancelled = end_of_user_code();
    const char* notices = stop_notices();
    if (!cancelled && is_transient(failure->sqlstate()) && tries < transient_retries) {
      step_aside(tries);
      continue;
    }
    culprit = a.culprit;
    bool runnable = a.begun;
    const Oid tried = q->handler;
    if (!runnable) {
      persist([&] { runnable = still_runnable(q); });
    }
    if (!runnable) {
      persist([&] { give_back(tasks, n); });
      return;
    }
    if (!cancelled && q->handler != tried && tries < transient_retries) {
      continue;  // dropped and created again since the claim
    }
    if (n == 1) {
      persist([&] { record_failure(tasks[0], *failure, notices); });
      return;
    }
    if (cancelled && culprit >= 0) {
      persist([&] { record_failure(tasks[culprit], *failure, notices); });
      tasks[culprit] = tasks[--n];
      tries = -1;
      continue;
    }
    break;
  }
  run_apart(q, tasks, n, culprit, memory);
}

// A task; of a workflow, also the steps after it, as long as they come to this worker.
void run_in_a_row(queue_info* q, claimed_task task, MemoryContext memory, const execution& how,
                  bool last) {
  for (int n = 1;; n++) {
    following next;
    next.memory = memory;
    next.wanted = q->workflow && task.crashes == 0 && n < most_in_a_row && how.may_go_on() &&
                  MemoryContextMemAllocated(memory, true) < most_memory;
    run_together(q, &task, 1, memory, &next, last ? &how : nullptr);
    if (next.look != nullptr) {
      pg::call([] { waitpoint(waitpoint_id::look); });
      persist([&] { look_at_map(task, next.look); });
    }
    if (!next.found) {
      return;
    }
    task = next.task;
    pg::call([] { waitpoint(waitpoint_id::chained); });
    pg::call([] { CHECK_FOR_INTERRUPTS(); });
  }
}

}  // namespace

void prepare_to_execute() { grace_timer = RegisterTimeout(USER_TIMEOUT, end_of_grace); }

void execute(queue_info* q, claimed_task* tasks, int n, MemoryContext memory,
             const execution& how) {
  if (q->batch > 1) {
    run_together(q, tasks, n, memory, nullptr, &how);
    my_slot->tasks -= n;
  } else {
    for (int i = 0; i < n && how.begin(i); i++) {
      run_in_a_row(q, tasks[i], memory, how, i == n - 1);
      my_slot->tasks--;
    }
  }
  clean_session();
}

}  // namespace underway
