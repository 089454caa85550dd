// The entry points of a TensorRT plugin library: IPluginRegistry::loadLibrary finds the creators here.
#include "../merge/plugin.h"
#include "../score/plugin.h"
#include "../select/plugin.h"
#include "../unmerge/plugin.h"

#ifdef _WIN32
#define STRUCTSAM_EXPORT extern "C" __declspec(dllexport)
#else
#define STRUCTSAM_EXPORT extern "C" __attribute__((visibility("default")))
#endif

STRUCTSAM_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) {}  // nothing is logged

STRUCTSAM_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static structsam::Creator<structsam::ScoreOperator> score;
    static structsam::Creator<structsam::SelectOperator> select;
    static structsam::Creator<structsam::MergeOperator> merge;
    static structsam::Creator<structsam::UnmergeOperator> unmerge;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&score, &select, &merge, &unmerge};
    count = sizeof creators / sizeof *creators;
    return creators;
}
