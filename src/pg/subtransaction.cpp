#include "subtransaction.hpp"

namespace underway::pg {

subtransaction::subtransaction() : memory_(CurrentMemoryContext), owner_(CurrentResourceOwner) {
  call([this] {
    BeginInternalSubTransaction(nullptr);
    MemoryContextSwitchTo(memory_);
  });
}

subtransaction::~subtransaction() {
  if (!open_) {
    return;
  }
  try {
    call([] { RollbackAndReleaseCurrentSubTransaction(); });
  } catch (error&) {
    // A session that cannot roll back has no state to go on with.
    proc_exit(1);
  }
  MemoryContextSwitchTo(memory_);
  CurrentResourceOwner = owner_;
}

void subtransaction::release() {
  call([] { ReleaseCurrentSubTransaction(); });
  open_ = false;
  MemoryContextSwitchTo(memory_);
  CurrentResourceOwner = owner_;
}

}  // namespace underway::pg
