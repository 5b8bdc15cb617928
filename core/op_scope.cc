// OpScope: who observes a thread.
#include "core/op_scope.h"

#include <utility>

namespace hm11 {
namespace {

thread_local OpObserver* observer_of_thread = nullptr;

}  // namespace

ObservedOps::ObservedOps(OpObserver* observer) : before_(std::exchange(observer_of_thread, observer)) {}
ObservedOps::~ObservedOps() { observer_of_thread = before_; }

OpObserver* OpScope::TakeObserver() { return std::exchange(observer_of_thread, nullptr); }
void OpScope::GiveBack(OpObserver* observer) {
  observer->End();
  observer_of_thread = observer;
}

}  // namespace hm11
