/* Token buckets; contract in shape.h.  A bucket may go below zero by one frame, and lets
 * nothing through until it is above again: the rate is exact however long frames are. */
#include "src/switch/shape.h"

typedef struct Bucket {
    double per_ns, burst; /* per_ns 0: no limit */
    double left;
} Bucket;

struct Shape {
    ShapeOptions o;
    Bucket bytes, frames;
    int64_t filled_ns; /* 0: never */
};

static Bucket bucket_of(uint64_t per_s, uint64_t burst)
{
    double room = burst ? (double)burst : MAX((double)per_s / 10, 1);

    return (Bucket){.per_ns = (double)per_s / 1e9, .burst = room, .left = room};
}

static void go_on(Bucket *b, const Bucket *old)
{
    if (old->per_ns > 0)
        b->left = MIN(b->left, old->left);
}

Shape *shape_new(const ShapeOptions *options, const Shape *old)
{
    Shape *s = g_new0(Shape, 1);

    s->o = *options;
    s->bytes = bucket_of(options->bytes_per_s, options->burst_bytes);
    s->frames = bucket_of(options->frames_per_s, options->burst_frames);
    if (old) {
        s->filled_ns = old->filled_ns;
        go_on(&s->bytes, &old->bytes);
        go_on(&s->frames, &old->frames);
    }
    return s;
}

void shape_free(Shape *shape)
{
    g_free(shape);
}

const ShapeOptions *shape_options(const Shape *shape)
{
    return &shape->o;
}

static void fill(Bucket *b, double ns)
{
    b->left = MIN(b->burst, b->left + b->per_ns * ns);
}

static bool is_dry(const Bucket *b)
{
    return b->per_ns > 0 && b->left <= 0;
}

/* What a frame will be on a wire. */
static void on_wire(const Frame *f, double *ret_frames, double *ret_bytes)
{
    size_t headers = f->p.transport ? f->p.payload : ETH_HEADER, n = 1;

    if (f->hdr.gso_type != VNET_GSO_NONE && f->hdr.gso_size && f->len > headers)
        n = (f->len - headers + f->hdr.gso_size - 1) / f->hdr.gso_size;
    *ret_frames = (double)n;
    *ret_bytes = (double)(f->len + (n - 1) * headers);
}

bool shape_admit(Shape *shape, const Frame *f, int64_t now_ns)
{
    double frames, bytes;

    if (shape->filled_ns) {
        fill(&shape->bytes, (double)(now_ns - shape->filled_ns));
        fill(&shape->frames, (double)(now_ns - shape->filled_ns));
    }
    shape->filled_ns = now_ns;
    if (is_dry(&shape->bytes) || is_dry(&shape->frames))
        return false;
    on_wire(f, &frames, &bytes);
    shape->bytes.left -= bytes;
    shape->frames.left -= frames;
    return true;
}
