// A part of somebody's transaction that can be undone alone, as PL/pgSQL's exception blocks are.
// Runs in: client backends. Error discipline: throws pg::error; the destructor rolls back what was
// not released. Invariant: when the object is gone, memory context and resource owner are what they
// were; so an error that left it may be swallowed.
#pragma once

#include "error.hpp"

namespace underway::pg {

class subtransaction {
 public:
  subtransaction();
  ~subtransaction();
  subtransaction(const subtransaction&) = delete;
  subtransaction& operator=(const subtransaction&) = delete;
  void release();

 private:
  MemoryContext memory_;
  ResourceOwner owner_;
  bool open_ = true;
};

}  // namespace underway::pg
