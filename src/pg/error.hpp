// The two doors between C++ and the server's longjmp errors.
// call() goes in: runs server calls and turns an ereport into a C++ exception, pg::error.
// boundary() comes out: the body of every extern "C" function; turns what was thrown back into an
// ereport. Runs in: every process. Error discipline: CamelCase and SPI_ names are the server's and
// may longjmp, so they are called only inside call(); ours are snake_case and may throw; noexcept
// does neither. Invariant: no longjmp crosses a frame that has a destructor, and none leaves a
// catch block.
#pragma once

#include "server.hpp"

#include <exception>
#include <new>
#include <type_traits>
#include <utility>

namespace underway::pg {

// An error of the server, taken out of its error stack. Owns the copy, in a memory context under
// TopMemoryContext, since the transaction that it came from will be aborted. Swallowing one is
// legal only after that (sub)transaction was aborted.
class error {
 public:
  static error capture() noexcept;  // to be called right after the longjmp, with the error still on
                                    // the server's stack
  error(error&& other) noexcept
      : context_(std::exchange(other.context_, nullptr)), data_(other.data_) {}
  error& operator=(error&&) = delete;
  error(const error&) = delete;
  ~error();

  int sqlstate() const noexcept { return data_->sqlerrcode; }
  const ErrorData& data() const noexcept { return *data_; }
  void drop_context() noexcept { data_->context = nullptr; }
  // For an error of the server that says what is wrong, and not what helps. hint: a literal.
  void suggest(const char* hint) noexcept;
  // Gives the copy to the current transaction, to be thrown again by the server.
  ErrorData* release() noexcept;

 private:
  error(MemoryContext context, ErrorData* data) noexcept : context_(context), data_(data) {}
  MemoryContext context_;
  ErrorData* data_;
};

namespace detail {
struct restore_error_stack {
  sigjmp_buf* stack = PG_exception_stack;
  ErrorContextCallback* context = error_context_stack;
  MemoryContext memory = CurrentMemoryContext;
  ~restore_error_stack() {
    PG_exception_stack = stack;
    error_context_stack = context;
  }
};
[[noreturn]] void raise_foreign(const char* what, bool out_of_memory);
}  // namespace detail

// Locals of f must be trivially destructible: a longjmp skips their destructors.
template <class F> auto call(F&& f) -> decltype(f()) {
  using result = decltype(f());
  static_assert(std::is_void_v<result> || std::is_trivially_destructible_v<result>);
  detail::restore_error_stack before;
  sigjmp_buf here;
  if (sigsetjmp(here, 0) == 0) {
    PG_exception_stack = &here;
    return f();
  }
  PG_exception_stack = before.stack;
  error_context_stack = before.context;
  MemoryContextSwitchTo(before.memory);
  throw error::capture();
}

// Raised after the handlers have ended: an ereport inside a catch block would leak the C++
// exception for ever.
template <class F> auto boundary(F&& f) -> decltype(f()) {
  ErrorData* raised = nullptr;
  bool out_of_memory = false;
  char what[256] = "";
  try {
    return f();
  } catch (error& e) {
    raised = e.release();
  } catch (const std::bad_alloc&) {
    out_of_memory = true;
  } catch (const std::exception& e) {
    strlcpy(what, e.what(), sizeof what);
  }
  if (raised != nullptr) {
    ReThrowError(raised);
  }
  detail::raise_foreign(what, out_of_memory);
}

}  // namespace underway::pg
