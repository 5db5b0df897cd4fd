#include "task_function.hpp"

#include <map>

namespace underway {

namespace {

handler* handler_of(Oid function, bool set) {
  static auto* handlers = new std::map<Oid, handler>;
  static auto* sets = new std::map<Oid, handler>;
  return &(*(set ? sets : handlers))[function];
}

}  // namespace

task_function::task_function(const queue_info* q, const claimed_task& task)
    : q_(q), step_(q->workflow ? find_step(q, task) : nullptr) {}

void task_function::find() {
  function_ = step_ != nullptr ? resolve(q_, step_) : q_->handler;
  handler_ = handler_of(function_, step_ != nullptr && step_->set);
}

void task_function::prepare() {
  if (step_ == nullptr) {
    handler_->prepare(q_->handler, q_->handler_schema, q_->handler_name);
  } else if (step_->set) {
    handler_->prepare_set(function_, step_->schema, step_->name);
  } else {
    handler_->prepare(function_, step_->schema, step_->name);
  }
}

}  // namespace underway
