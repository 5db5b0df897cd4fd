// A transaction of one of our own processes.
// Runs in: background workers. Error discipline: throws pg::error; the destructor aborts what was
// not committed. Invariant: when the object is gone, no transaction, snapshot or SPI level of it is
// left.
#pragma once

#include "error.hpp"

namespace underway::pg {

class transaction {
 public:
  // ours: read committed, read write, no timeouts, whatever the session's settings are; else as the
  // session has it.
  enum class kind { ours, session };
  explicit transaction(kind k);
  ~transaction();
  transaction(const transaction&) = delete;
  transaction& operator=(const transaction&) = delete;
  void commit();
  // By this process so far.
  static uint64 begun() noexcept;

 private:
  bool open_ = true;
};

}  // namespace underway::pg
