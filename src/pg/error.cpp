#include "error.hpp"

namespace underway::pg {

error error::capture() noexcept {
  MemoryContext context =
      AllocSetContextCreate(TopMemoryContext, "underway error", ALLOCSET_SMALL_SIZES);
  MemoryContext old = MemoryContextSwitchTo(context);
  ErrorData* data = CopyErrorData();
  FlushErrorState();
  MemoryContextSwitchTo(old);
  return error(context, data);
}

error::~error() {
  if (context_ != nullptr) {
    MemoryContextDelete(context_);
  }
}

void error::suggest(const char* hint) noexcept {
  if (data_->hint == nullptr) {
    data_->hint = MemoryContextStrdup(context_, hint);
  }
}

ErrorData* error::release() noexcept {
  MemoryContextSetParent(context_, IsTransactionState() ? CurTransactionContext : TopMemoryContext);
  context_ = nullptr;
  return data_;
}

namespace detail {
void raise_foreign(const char* what, bool out_of_memory) {
  if (out_of_memory) {
    ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
  }
  ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
                  errmsg("underway: unexpected C++ exception: %s", what)));
  pg_unreachable();
}
}  // namespace detail

}  // namespace underway::pg
