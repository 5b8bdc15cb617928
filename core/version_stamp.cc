// Compiled anew each time that a program is linked, with what tools/workspace_status says as macros. A file of its
// own, so that nothing else depends on the commit.
#ifndef BUILD_SCM_REVISION
#define BUILD_SCM_REVISION "unknown"
#endif

extern const char hm11_commit[];
const char hm11_commit[] = BUILD_SCM_REVISION;
