// The CUDA side of StepGraph and Fence; without a toolkit there is never a CUDA device to call it for.
#ifndef HM11_CORE_STEP_GRAPH_CUDA_H_
#define HM11_CORE_STEP_GRAPH_CUDA_H_

#include <functional>

#include "core/device.h"

struct CUgraphExec_st;
struct CUevent_st;

namespace hm11::cuda {

#if HM11_HAVE_CUDA
CUgraphExec_st* Capture(const Device& device, const std::function<void()>& work);
void LaunchGraph(const Device& device, CUgraphExec_st* graph);
void DestroyGraph(CUgraphExec_st* graph);
CUevent_st* NewEvent();
void RecordEvent(const Device& device, CUevent_st* event);
void HoldForEvent(const Device& device, CUevent_st* event);
void WaitForEvent(CUevent_st* event);
void DestroyEvent(CUevent_st* event);
#else
inline CUgraphExec_st* Capture(const Device&, const std::function<void()>&) { return nullptr; }
inline void LaunchGraph(const Device&, CUgraphExec_st*) {}
inline void DestroyGraph(CUgraphExec_st*) {}
inline CUevent_st* NewEvent() { return nullptr; }
inline void RecordEvent(const Device&, CUevent_st*) {}
inline void HoldForEvent(const Device&, CUevent_st*) {}
inline void WaitForEvent(CUevent_st*) {}
inline void DestroyEvent(CUevent_st*) {}
#endif

}  // namespace hm11::cuda

#endif  // HM11_CORE_STEP_GRAPH_CUDA_H_
