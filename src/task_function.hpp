// What a task runs: its queue's handler, or the function of its step. Runs in: workers, and
// run_inline. Error discipline: the constructor and find() throw pg::error; prepare() and run() are
// server code, called inside pg::call.
#pragma once

#include "handler.hpp"
#include "step.hpp"

namespace underway {

class task_function {
 public:
  task_function() = default;
  // Before the handler's transaction: definitions are read here.
  task_function(const queue_info* q, const claimed_task& task);
  // Finishing the task is all there is to do: it waited for the time, a signal or others, or is a
  // nudge.
  bool is_nothing() const noexcept { return step_ != nullptr && step_->name == nullptr; }
  // Raises when it is gone, or may not be run.
  void find();
  void prepare();
  result run(Jsonb* input, MemoryContext results, bool* begun, bool top_level) {
    return handler_->run(input, results, begun, top_level);
  }

 private:
  const queue_info* q_ = nullptr;
  step_function* step_ = nullptr;  // null: the queue's handler
  Oid function_ = InvalidOid;
  handler* handler_ = nullptr;
};

}  // namespace underway
