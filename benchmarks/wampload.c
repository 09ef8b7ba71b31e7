// wampload - single-threaded epoll WebSocket load generator; benchmarks/generator.py builds it, benchmarks/lab.py drives it
// gcc -O2 -Wall -o wampload wampload.c
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACC "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
typedef uint64_t u64; typedef int64_t i64;

/* ---------------------------------------------------------------- options */
static const char *o_mode = "rpc", *o_path = "/", *o_proto = "", *o_header = "", *o_label = "";
static const char *o_call, *o_reply, *o_pub, *o_event, *o_topicfmt = "topic%d", *o_auto = "";
static char *o_script[32]; static int n_script;
static char *o_sub[32]; static int n_sub;
static int o_port = 8000, o_conns = 1, o_inflight = 1, o_pubs = 1, o_window = 1, o_size = 128, o_topics = 1, o_conc = 64;
static double o_warm = 0.5, o_dur = 3, o_hold = 1;
static int o_pids[32], n_pids; static int o_minevents = 0;

/* ---------------------------------------------------------------- helpers */
static u64 now_ns(void){ struct timespec t; clock_gettime(CLOCK_MONOTONIC,&t); return (u64)t.tv_sec*1000000000ull+t.tv_nsec; }
static void die(const char *f, ...){ va_list a; va_start(a,f); printf("{\"mode\":\"%s\",\"label\":\"%s\",\"ok\":false,\"error\":\"",o_mode,o_label);
  char b[1200]; vsnprintf(b,sizeof b,f,a); for(char*p=b;*p;p++){ if(*p=='"'||*p=='\\') putchar('\\'); putchar((unsigned char)*p<32?' ':*p);} printf("\"}\n"); fflush(stdout); exit(2); }
static u64 errors; static char first_err[400];
static void err(const char *f, ...){ errors++; if(!first_err[0]){ va_list a; va_start(a,f); vsnprintf(first_err,sizeof first_err,f,a);
   for(char*p=first_err;*p;p++) if(*p=='"'||*p=='\\'||(unsigned char)*p<32) *p='\''; } }

/* log-linear histogram, 1/64 relative resolution, ns */
static u64 H[64*64]; static u64 Hn; static double Hsum;
static inline void hadd(u64 v){ int e=v<64?0:57-__builtin_clzll(v); int i=v<64?(int)v:e*64+(int)(v>>e); if(i>=64*64)i=64*64-1; H[i]++; Hn++; Hsum+=v; }
static double hq(double q){ if(!Hn) return 0; u64 t=(u64)(q*Hn); if(t>=Hn)t=Hn-1; u64 c=0; for(int i=0;i<64*64;i++){ c+=H[i]; if(c>t){ if(i<64) return i/1e3; int e=i/64-1; /* i = e*64 + (v>>e), v>>e in [64,128) */ u64 m=i-(u64)e*64; return (double)(m<<e)/1e3; } } return 0; }
static void hreset(void){ memset(H,0,sizeof H); Hn=0; Hsum=0; }

/* ---------------------------------------------------------------- templates
   %I call id  %P payload (exactly --size chars)  %T topic  %D run of digits  %* rest  (%% literal) */
enum { LIT, ID, PAY, TOP, DIG, ANY };
typedef struct { int k; char *s; int n; } piece; typedef struct { piece p[24]; int n; } tmpl;
static void tparse(tmpl *t,const char *s){ t->n=0; char lit[8192]; int l=0;
  #define FL if(l){ t->p[t->n].k=LIT; t->p[t->n].s=memcpy(malloc(l+1),lit,l); t->p[t->n].n=l; t->n++; l=0; }
  for(;*s;s++){ int k=-1; if(*s=='%'){ switch(s[1]){ case 'I':k=ID;break; case 'P':k=PAY;break; case 'T':k=TOP;break; case 'D':k=DIG;break; case '*':k=ANY;break; case '%': s++; lit[l++]='%'; continue; } }
    if(k>=0){ FL t->p[t->n].k=k; t->n++; s++; } else lit[l++]=*s; } FL }
static char topicname[20000][40]; static int topiclen[20000];
static int texpand(tmpl *t,char *o,u64 id,const char *pay,int paylen,int topic){ char *b=o; for(int i=0;i<t->n;i++){ piece*p=&t->p[i]; switch(p->k){
   case LIT: memcpy(o,p->s,p->n); o+=p->n; break; case ID: { char tmp[24]; int n=0; do{ tmp[n++]='0'+id%10; id/=10; }while(id); while(n) *o++=tmp[--n]; break; }
   case PAY: memcpy(o,pay,paylen); o+=paylen; break; case TOP: memcpy(o,topicname[topic],topiclen[topic]); o+=topiclen[topic]; break; } } return o-b; }
/* full match; returns 1 if matches. */
static int tmatch(tmpl *t,const char *m,int n,u64 *id,const char **pay,int topic){ const char *e=m+n; for(int i=0;i<t->n;i++){ piece*p=&t->p[i]; switch(p->k){
   case LIT: if(e-m<p->n||memcmp(m,p->s,p->n)) return 0; m+=p->n; break;
   case ID: { const char*s=m; u64 v=0; while(m<e&&*m>='0'&&*m<='9') v=v*10+(*m++-'0'); if(m==s) return 0; if(id)*id=v; break; }
   case DIG: { const char*s=m; while(m<e&&*m>='0'&&*m<='9') m++; if(m==s) return 0; break; }
   case PAY: if(e-m<o_size) return 0; if(pay)*pay=m; m+=o_size; break;
   case TOP: if(e-m<topiclen[topic]||memcmp(m,topicname[topic],topiclen[topic])) return 0; m+=topiclen[topic]; break;
   case ANY: if(i==t->n-1) return 1; if(i==t->n-2&&t->p[i+1].k==LIT){ piece*q=&t->p[i+1]; return e-m>=q->n&&!memcmp(e-q->n,q->s,q->n); } return 0; } } return m==e; }
/* strip whitespace outside strings (so `[3, "1", 3]` compares equal to `[3,"1",3]`) */
static int normalise(const char *m,int n,char *o){ int q=0; char *b=o; for(int i=0;i<n;i++){ char c=m[i]; if(q){ *o++=c; if(c=='\\'&&i+1<n) *o++=m[++i]; else if(c=='"') q=0; } else { if(c==' '||c=='\n'||c=='\t'||c=='\r') continue; if(c=='"') q=1; *o++=c; } } return o-b; }

/* ---------------------------------------------------------------- connections */
enum { S_NEW, S_CONN, S_HTTP, S_SCRIPT, S_READY, S_CLOSING, S_DEAD };
typedef struct { u64 id, ts; } slot;
typedef struct conn { int fd, state, idx, is_pub, topic, spos, wantout; char *rb; int rlen, rcap; char *wb; int wlen, woff, wcap; uint32_t mask;
   u64 next_id; int outst; slot *sl; i64 *last; u64 t0; int *ring; u64 pseq; int poutst; } conn;
#define RING 1024
static conn *C; static int NC; static int ep; static int n_ready, n_inhs; static struct sockaddr_in addr;
static tmpl t_pubign; static const char*o_pubign; static tmpl t_call,t_reply,t_pub,t_event,t_script[32],t_sub[32]; static int script_send[32],sub_send[32];
static int use_sub=0; static int running=0, sending=0; static u64 done_ops, done_total, published; static int *topic_subs;
static char fill[1<<20]; static char auto_in[16],auto_out[16]; static int auto_in_n,auto_out_n;
static void conn_start(conn*c);
static int m_rpc,m_fan,m_conn,m_churn,m_echo; static u64 churn_loops; static char msgbuf[1<<21]; static char normbuf[1<<21];

static void flushw(conn*c){ while(c->woff<c->wlen){ ssize_t r=send(c->fd,c->wb+c->woff,c->wlen-c->woff,MSG_NOSIGNAL); if(r<0){ if(errno==EAGAIN){ if(!c->wantout){ c->wantout=1; struct epoll_event ev={.events=EPOLLIN|EPOLLOUT,.data.ptr=c}; epoll_ctl(ep,EPOLL_CTL_MOD,c->fd,&ev);} return; } err("send: %s",strerror(errno)); c->wlen=c->woff=0; return; } c->woff+=r; }
  c->wlen=c->woff=0; if(c->wantout){ c->wantout=0; struct epoll_event ev={.events=EPOLLIN,.data.ptr=c}; epoll_ctl(ep,EPOLL_CTL_MOD,c->fd,&ev);} }
static char *wreserve(conn*c,int n){ if(c->wlen+n>c->wcap){ c->wcap=(c->wlen+n)*2+64; c->wb=realloc(c->wb,c->wcap);} return c->wb+c->wlen; }
static void addframe(conn*c,int op,const char *p,int n){ unsigned char *o=(unsigned char*)wreserve(c,n+14),*b=o; *o++=0x80|op; if(n<126)*o++=0x80|n; else if(n<65536){ *o++=0x80|126; *o++=n>>8; *o++=n; } else { *o++=0x80|127; for(int i=7;i>=0;i--)*o++=((u64)n>>(8*i))&255; }
  memcpy(o,&c->mask,4); o+=4; int i=0; u64 m8=((u64)c->mask<<32)|c->mask; for(;i+8<=n;i+=8){ u64 v; memcpy(&v,p+i,8); v^=m8; memcpy(o+i,&v,8);} const unsigned char*mk=(unsigned char*)&c->mask; for(;i<n;i++) o[i]=p[i]^mk[i&3]; c->wlen+=(o-b)+n; }

static void send_call(conn*c){ u64 id=c->next_id++; slot*s=&c->sl[id&(RING-1)]; if(s->id) { err("id %llu still outstanding after %d newer calls",(unsigned long long)s->id,RING); } s->id=id; char*m=msgbuf; int n=texpand(&t_call,m,id,fill,o_size,c->topic); s->ts=now_ns(); addframe(c,1,m,n); c->outst++; }
static void send_pubs(conn*c){ while(sending&&c->poutst<o_window){ int ri=c->pseq%o_window; if(c->ring[ri]) return; int topic=c->pseq%o_topics; c->ring[ri]=topic_subs[topic]; if(!c->ring[ri]){c->pseq++;continue;}
   char pay[64]; char *pb=normbuf; u64 t=now_ns(); int k=snprintf(pay,sizeof pay,"%04x.%010llx.%016llx.",c->idx,(unsigned long long)c->pseq,(unsigned long long)t); memcpy(pb,fill,o_size); memcpy(pb,pay,k); u64 id=c->next_id++; int n=texpand(&t_pub,msgbuf,id,pb,o_size,topic); addframe(c,1,msgbuf,n); c->pseq++; c->poutst++; published++; } }
static void conn_close_fd(conn*c){ close(c->fd); c->fd=-1; c->state=S_DEAD; c->rlen=0; c->wlen=c->woff=0; }
static void become_ready(conn*c){ c->state=S_READY; n_ready++; n_inhs--; if(m_conn) hadd(now_ns()-c->t0);
   if(m_churn){ char p[2]={0x03,(char)0xe8}; addframe(c,8,p,2); c->state=S_CLOSING; } }
static void script_run(conn*c){ int tot=n_script+((use_sub&&!c->is_pub)?n_sub:0); while(c->spos<tot){ int i=c->spos; tmpl*t=i<n_script?&t_script[i]:&t_sub[i-n_script]; int snd=i<n_script?script_send[i]:sub_send[i-n_script]; if(!snd) return; int n=texpand(t,msgbuf,1,fill,o_size,c->topic); addframe(c,1,msgbuf,n); c->spos++; } become_ready(c); }
static void churn_done(conn*c){ if(running){ done_ops++; hadd(now_ns()-c->t0);} churn_loops++; conn_close_fd(c); if(sending) conn_start(c); }

static inline u64 hexn(const char*p,int n,int*bad){ u64 v=0; for(int i=0;i<n;i++){ int d=p[i]; if(d>='0'&&d<='9')d-='0'; else if(d>='a'&&d<='f')d-='a'-10; else {*bad=1; d=0;} v=v<<4|d; } return v; }
static void on_msg(conn*c,char*m,int n){ if(auto_in_n&&n==auto_in_n&&!memcmp(m,auto_in,n)){ addframe(c,1,auto_out,auto_out_n); return; }
  if(memchr(m,' ',n)||memchr(m,'\n',n)){ n=normalise(m,n,normbuf); m=normbuf; }
  if(c->state==S_SCRIPT){ int i=c->spos; tmpl*t=i<n_script?&t_script[i]:&t_sub[i-n_script]; u64 id; if(!tmatch(t,m,n,&id,NULL,c->topic)) die("script step %d: unexpected message: %.*s",i,n>300?300:n,m); c->spos++; script_run(c); return; }
  if(c->state==S_CLOSING) return;
  if(m_rpc){ u64 id=0; if(!tmatch(&t_reply,m,n,&id,NULL,c->topic)||!id){ err("bad reply: %.*s",n>200?200:n,m); return; } slot*s=&c->sl[id&(RING-1)]; if(s->id!=id){ err("reply to unknown id %llu",(unsigned long long)id); return; } s->id=0; c->outst--; u64 t=now_ns(); done_total++; if(running){ done_ops++; hadd(t-s->ts);} if(sending) send_call(c); return; }
  if(m_fan){ if(c->is_pub){ u64 x; if(o_pubign&&tmatch(&t_pubign,m,n,&x,NULL,c->topic)) return; err("publisher got unexpected message: %.*s",n>200?200:n,m); return; } const char*pay; if(!tmatch(&t_event,m,n,NULL,&pay,c->topic)){ err("bad event: %.*s",n>200?200:n,m); return; } int bad=0; u64 pi=hexn(pay,4,&bad),sq=hexn(pay+5,10,&bad),ts=hexn(pay+16,16,&bad); if(bad||pi>=(u64)o_pubs||memcmp(pay+33,fill+33,o_size-33)){ err("bad payload: %.*s",n>200?200:n,m); return; }
    if (c->last[pi]+o_topics!=(i64)sq||(int)(sq%o_topics)!=c->topic) err("sub %d: out of order/lost/dup: pub %d seq %lld after %lld",c->idx,(int)pi,(long long)sq,(long long)c->last[pi]);
    c->last[pi]=sq;
    u64 t=now_ns(); done_total++; if(running){ done_ops++; hadd(t-ts);} conn*p=&C[NC-o_pubs+pi]; int*r=&p->ring[sq%o_window]; if(--*r==0){ p->poutst--; if(sending){ send_pubs(p); flushw(p);} } return; }
  err("unexpected message: %.*s",n>200?200:n,m); }

static void on_http(conn*c,char**bp,int*np){ char*b=*bp; int n=*np; char*e=memmem(b,n,"\r\n\r\n",4); if(!e) return; *e=0; if(strncmp(b,"HTTP/1.1 101",12)) die("handshake refused: %.200s",b); if(!strstr(b,ACC)) die("bad Sec-WebSocket-Accept: %.400s",b);
   if(o_proto[0]){ char*p=strcasestr(b,"\r\nsec-websocket-protocol:"); if(!p) die("no subprotocol in reply: %.400s",b); p+=25; while(*p==' ')p++; size_t l=strcspn(p,"\r\n"); char want[128]; size_t wl=strcspn(o_proto,", "); memcpy(want,o_proto,wl); if(l!=wl||memcmp(p,want,wl)) die("subprotocol mismatch: %.60s",p); }
   if(strcasestr(b,"\r\nsec-websocket-extensions:")) die("unexpected extension negotiated");
   int used=e+4-b; *bp+=used; *np-=used; c->state=S_SCRIPT; c->spos=0; script_run(c); }
static char *RB; static const int RBSZ=1<<20; static u64 n_recv;
/* returns 0 if connection died */
static void on_readable(conn*c){ int off=c->rlen; if(off) memcpy(RB,c->rb,off); ssize_t r=recv(c->fd,RB+off,RBSZ-off,0); n_recv++; if(r<0){ if(errno==EAGAIN) return; if(c->state==S_CLOSING){ churn_done(c); return; } err("recv: %s",strerror(errno)); conn_close_fd(c); return; }
  if(r==0){ if(c->state==S_CLOSING){ churn_done(c); return; } if(c->state<S_READY) die("server closed during handshake (state %d, step %d)",c->state,c->spos); err("server closed connection %d",c->idx); conn_close_fd(c); return; }
  c->rlen=0; char*b=RB; int n=off+r; if(c->state==S_HTTP){ on_http(c,&b,&n); }
  if(c->state!=S_HTTP) while(n>=2){ unsigned char*u=(unsigned char*)b; int h=2; u64 l=u[1]&127; if(u[1]&0x80) die("masked frame from server"); if(l==126){ if(n<4)break; l=u[2]<<8|u[3]; h=4; } else if(l==127){ if(n<10)break; l=0; for(int i=0;i<8;i++) l=l<<8|u[2+i]; h=10; } if((u64)n<h+l) break; int op=u[0]&15; if(!(u[0]&0x80)||op==0) die("fragmented frame"); if(u[0]&0x70) die("RSV bits set");
     if(op==1||op==2) on_msg(c,b+h,(int)l); else if(op==9) addframe(c,10,b+h,(int)l); else if(op==8){ if(c->state==S_CLOSING){ churn_done(c); return; } err("server sent close %d",l>=2?(unsigned char)b[h]<<8|(unsigned char)b[h+1]:0); conn_close_fd(c); return; }
     b+=h+l; n-=h+l; }
  if(n){ if(n>c->rcap){ c->rcap=n*2; c->rb=realloc(c->rb,c->rcap);} memcpy(c->rb,b,n); } c->rlen=n; if(c->wlen>c->woff&&!c->wantout) flushw(c); }

static void conn_start(conn*c){ c->fd=socket(AF_INET,SOCK_STREAM|SOCK_NONBLOCK,0); if(c->fd<0) die("socket: %s",strerror(errno)); int one=1; setsockopt(c->fd,IPPROTO_TCP,TCP_NODELAY,&one,sizeof one); c->t0=now_ns(); c->state=S_CONN; c->rlen=c->wlen=c->woff=0; c->spos=0; c->wantout=1; n_inhs++; if(connect(c->fd,(void*)&addr,sizeof addr)&&errno!=EINPROGRESS) die("connect: %s",strerror(errno)); struct epoll_event ev={.events=EPOLLIN|EPOLLOUT,.data.ptr=c}; epoll_ctl(ep,EPOLL_CTL_ADD,c->fd,&ev); }
static void on_event(struct epoll_event*ev){ conn*c=ev->data.ptr; if(c->fd<0) return; if(c->state==S_CONN){ int e=0; socklen_t l=sizeof e; getsockopt(c->fd,SOL_SOCKET,SO_ERROR,&e,&l); if(e) die("connect: %s",strerror(e)); if(!(ev->events&EPOLLOUT)) return; c->state=S_HTTP; char*b=wreserve(c,2048); c->wlen=snprintf(b,2048,"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n%s%s%s%s%s\r\n",o_path,o_port,o_proto[0]?"Sec-WebSocket-Protocol: ":"",o_proto,o_proto[0]?"\r\n":"",o_header,o_header[0]?"\r\n":""); flushw(c); return; }
  if(ev->events&EPOLLOUT){ flushw(c); if(c->fd<0) return; } if(ev->events&(EPOLLIN|EPOLLHUP|EPOLLERR)) on_readable(c); }
static struct epoll_event evs[1024];
static void pump(int tmo){ int n=epoll_wait(ep,evs,1024,tmo); for(int i=0;i<n;i++) on_event(&evs[i]); }

/* ---------------------------------------------------------------- process statistics */
static double srv_cpu(void){ double s=0; for(int i=0;i<n_pids;i++){ char f[64],b[1024]; snprintf(f,64,"/proc/%d/stat",o_pids[i]); FILE*h=fopen(f,"r"); if(!h) continue; int n=fread(b,1,1023,h); fclose(h); b[n]=0; char*p=strrchr(b,')'); unsigned long u,k; if(p&&sscanf(p+2,"%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",&u,&k)==2) s+=(double)(u+k)/sysconf(_SC_CLK_TCK);} return s; }
static long srv_rss(void){ long s=0; for(int i=0;i<n_pids;i++){ char f[64],l[256]; snprintf(f,64,"/proc/%d/status",o_pids[i]); FILE*h=fopen(f,"r"); if(!h) continue; while(fgets(l,256,h)) if(!strncmp(l,"VmRSS:",6)) s+=atol(l+6); fclose(h);} return s; }
static double self_cpu(void){ struct rusage r; getrusage(RUSAGE_SELF,&r); return r.ru_utime.tv_sec+r.ru_stime.tv_sec+(r.ru_utime.tv_usec+r.ru_stime.tv_usec)/1e6; }
static double steal(void){ FILE*h=fopen("/proc/stat","r"); unsigned long long a[8]={0}; if(h){ if(fscanf(h,"cpu %llu %llu %llu %llu %llu %llu %llu %llu",a,a+1,a+2,a+3,a+4,a+5,a+6,a+7)!=8) a[7]=0; fclose(h);} return (double)a[7]/sysconf(_SC_CLK_TCK); }

static void connect_range(int a,int b){ int next=a,target=n_ready+(b-a); while(n_ready<target){ while(next<b&&n_inhs<o_conc) conn_start(&C[next++]); pump(1000); static u64 lastp; static int lr; u64 t=now_ns(); if(n_ready!=lr||!lastp){ lr=n_ready; lastp=t; } else if(t-lastp>20000000000ull) die("connect stalled at %d of %d",n_ready,target); } }
static void split_auto(void){ const char*e=strchr(o_auto,'='); if(!e) return; auto_in_n=e-o_auto; memcpy(auto_in,o_auto,auto_in_n); auto_out_n=strlen(e+1); memcpy(auto_out,e+1,auto_out_n); }
static void preset(const char*p){
  if(!strcmp(p,"wamp1")){ o_proto="wamp"; n_script=0; o_script[n_script++]="<[0,%*"; n_sub=0; o_sub[n_sub++]=">[5,\"%T\"]"; o_sub[n_sub++]=">[2,\"1\",\"add\",1,2]"; o_sub[n_sub++]="<[3,\"1\",3]"; o_call="[2,\"%I\",\"add\",1,2]"; o_reply="[3,\"%I\",3]"; o_pub="[7,\"%T\",\"%P\"]"; o_event="[8,\"%T\",\"%P\"]"; }
  else if(!strcmp(p,"sio")){ o_proto=""; o_path="/socket.io/?EIO=4&transport=websocket"; o_auto="2=3"; n_script=0; o_script[n_script++]="<0{%*"; o_script[n_script++]=">40"; o_script[n_script++]="<40%*"; n_sub=0; o_sub[n_sub++]=">421[\"sub\",\"%T\"]"; o_sub[n_sub++]="<431%*"; o_call="42%I[\"add\",1,2]"; o_reply="43%I[3]"; o_pub="42[\"pub\",\"%T\",\"%P\"]"; o_event="42[\"ev\",\"%P\"]"; }
  else if(!strcmp(p,"wamp2")){ o_proto="wamp.2.json"; n_script=0; o_script[n_script++]=">[1,\"realm1\",{\"roles\":{\"caller\":{},\"subscriber\":{},\"publisher\":{}}}]"; o_script[n_script++]="<[2,%*"; n_sub=0; o_sub[n_sub++]=">[32,1,{},\"%T\"]"; o_sub[n_sub++]="<[33,1,%D]"; o_call="[48,%I,{},\"add\",[1,2]]"; o_reply="[50,%I,{},[3]]"; o_pub="[16,%I,{},\"%T\",[\"%P\"]]"; o_event="[36,%D,%D,{},[\"%P\"]]"; }
  else { fprintf(stderr,"unknown preset\n"); exit(1);} }

int main(int ac,char**av){ preset("wamp1"); static struct option lo[]={{"mode",1,0,'m'},{"port",1,0,'p'},{"path",1,0,'u'},{"proto",1,0,'P'},{"header",1,0,'H'},{"conns",1,0,'n'},{"inflight",1,0,'k'},{"pubs",1,0,'b'},{"window",1,0,'w'},{"size",1,0,'s'},{"topics",1,0,'t'},{"conc",1,0,'c'},{"warmup",1,0,'W'},{"duration",1,0,'d'},{"hold",1,0,'h'},{"pid",1,0,'i'},{"call",1,0,1},{"reply",1,0,2},{"pub",1,0,3},{"event",1,0,4},{"script",1,0,5},{"sub",1,0,6},{"topicfmt",1,0,7},{"auto",1,0,8},{"preset",1,0,9},{"label",1,0,10},{"noscript",0,0,11},{"min-events",1,0,12},{"pubignore",1,0,13},{0,0,0,0}};
  int ch,sset=0,subset=0; while((ch=getopt_long(ac,av,"",lo,0))!=-1) switch(ch){ case 'm':o_mode=optarg;break; case 'p':o_port=atoi(optarg);break; case 'u':o_path=optarg;break; case 'P':o_proto=optarg;break; case 'H':o_header=optarg;break; case 'n':o_conns=atoi(optarg);break; case 'k':o_inflight=atoi(optarg);break; case 'b':o_pubs=atoi(optarg);break; case 'w':o_window=atoi(optarg);break; case 's':o_size=atoi(optarg);break; case 't':o_topics=atoi(optarg);break; case 'c':o_conc=atoi(optarg);break; case 'W':o_warm=atof(optarg);break; case 'd':o_dur=atof(optarg);break; case 'h':o_hold=atof(optarg);break;
    case 'i': for(char*p=strtok(optarg,",");p;p=strtok(0,",")) o_pids[n_pids++]=atoi(p); break; case 1:o_call=optarg;break; case 2:o_reply=optarg;break; case 3:o_pub=optarg;break; case 4:o_event=optarg;break; case 5: if(!sset++) n_script=0; o_script[n_script++]=optarg; break; case 6: if(!subset++) n_sub=0; o_sub[n_sub++]=optarg; break; case 7:o_topicfmt=optarg;break; case 8:o_auto=optarg;break; case 9:preset(optarg);break; case 10:o_label=optarg;break; case 11:n_script=0;sset=1;break; case 12:o_minevents=atoi(optarg);break; case 13:o_pubign=optarg;break; default: return 1; }
  m_echo=!strcmp(o_mode,"echo"); m_rpc=m_echo||!strcmp(o_mode,"rpc"); m_fan=!strcmp(o_mode,"fanout")||!strcmp(o_mode,"topics"); m_conn=!strcmp(o_mode,"conn"); m_churn=!strcmp(o_mode,"churn"); if(!(m_rpc||m_fan||m_conn||m_churn)) { fprintf(stderr,"bad mode\n"); return 1; }
  if(m_fan&&o_size<40) { fprintf(stderr,"size>=40 for fanout\n"); return 1; } if(o_topics>20000||o_window>100000||o_inflight>RING/2) return 1; if(o_size>(1<<20)) return 1;
  memset(fill,'x',sizeof fill); split_auto(); for(int i=0;i<o_topics;i++) topiclen[i]=snprintf(topicname[i],40,o_topicfmt,i);
  if(m_echo){ /* text frame of exactly --size bytes incl. id; server must send back the same */ static char t[1<<20]; int pad=o_size-10; if(pad<0)pad=0; memset(t,'x',pad); strcpy(t+pad,"#%I"); o_call=o_reply=strdup(t); }
  tparse(&t_call,o_call); tparse(&t_reply,o_reply); tparse(&t_pub,o_pub); tparse(&t_event,o_event); if(o_pubign) tparse(&t_pubign,o_pubign); for(int i=0;i<n_script;i++){ script_send[i]=o_script[i][0]=='>'; tparse(&t_script[i],o_script[i]+1);} for(int i=0;i<n_sub;i++){ sub_send[i]=o_sub[i][0]=='>'; tparse(&t_sub[i],o_sub[i]+1);}
  ep=epoll_create1(0); RB=malloc(RBSZ+16); addr.sin_family=AF_INET; addr.sin_port=htons(o_port); addr.sin_addr.s_addr=htonl(INADDR_LOOPBACK);
  NC=o_conns+(m_fan?o_pubs:0); C=calloc(NC,sizeof*C); topic_subs=calloc(o_topics,sizeof(int)); srand(42);
  for(int i=0;i<NC;i++){ conn*c=&C[i]; c->fd=-1; c->idx=i; c->mask=rand()*2654435761u|0x01010101; c->topic=i%o_topics; c->next_id=1; if(m_rpc) c->sl=calloc(RING,sizeof(slot)); if(m_fan){ if(i>=o_conns){ c->is_pub=1; c->idx=i-o_conns; c->ring=calloc(o_window,sizeof(int)); } else { c->last=malloc(o_pubs*sizeof(i64)); for(int k=0;k<o_pubs;k++) c->last[k]=(i64)c->topic-o_topics; topic_subs[c->topic]++; } } }
  use_sub=m_fan||m_churn; if(m_churn&&o_conc<o_conns) o_conc=o_conns;
  u64 T0=now_ns(); long rss0=srv_rss(); 
  #define COMMON printf("{\"mode\":\"%s\",\"label\":\"%s\",\"ok\":%s,\"errors\":%llu,\"first_error\":\"%s\",\"conns\":%d,\"inflight\":%d,\"pubs\":%d,\"window\":%d,\"topics\":%d,\"size\":%d,",o_mode,o_label,errors?"false":"true",(unsigned long long)errors,first_err,o_conns,o_inflight,o_pubs,o_window,o_topics,o_size)
  if(m_conn){ int a=o_conns/10; connect_range(0,a); usleep(300000); long r1=srv_rss(); double sc=srv_cpu(),gc=self_cpu(),st=steal(); hreset(); u64 t0=now_ns(); connect_range(a,o_conns); u64 t1=now_ns(); double sc1=srv_cpu(),gc1=self_cpu(),st1=steal(); u64 he=now_ns()+(u64)(o_hold*1e9); while(now_ns()<he) pump(50); long r2=srv_rss(); int alive=0; for(int i=0;i<NC;i++) alive+=C[i].state==S_READY; if(alive!=o_conns) err("only %d of %d alive",alive,o_conns); double el=(t1-t0)/1e9; COMMON;
    printf("\"elapsed\":%.3f,\"rate\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"rss0_kb\":%ld,\"rss10_kb\":%ld,\"rss_full_kb\":%ld,\"rss_per_conn_kb\":%.2f,\"gen_cpu\":%.3f,\"srv_cpu\":%.3f,\"steal\":%.3f}\n",el,(o_conns-a)/el,hq(.5),hq(.99),rss0,r1,r2,(double)(r2-r1)/(o_conns-a),(gc1-gc)/el,(sc1-sc)/el,(st1-st)/el); return errors?2:0; }
  if(m_churn){ sending=1; for(int i=0;i<NC;i++) conn_start(&C[i]); } else { connect_range(0,NC); u64 he=now_ns()+(m_fan?200000000:50000000); while(now_ns()<he) pump(10); if(n_ready!=NC) die("not all ready"); sending=1; for(int i=0;i<NC;i++){ conn*c=&C[i]; if(m_rpc){ for(int k=0;k<o_inflight;k++) send_call(c); flushw(c);} else if(c->is_pub){ send_pubs(c); flushw(c);} } }
  double conn_el=(now_ns()-T0)/1e9; u64 t=now_ns(),we=t+(u64)(o_warm*1e9); while((t=now_ns())<we||(m_fan&&published<2)){ pump(20); if(t>we+30000000000ull) die("no progress"); }
  hreset(); done_ops=0; running=1; u64 r0=n_recv; double sc=srv_cpu(),gc=self_cpu(),st=steal(); u64 p0=published; u64 t0=now_ns(),te=t0+(u64)(o_dur*1e9); while((t=now_ns())<te||(o_minevents&&done_ops<(u64)o_minevents&&t<te+20000000000ull)) pump(20);
  running=0; double sc1=srv_cpu(),gc1=self_cpu(),st1=steal(),el=(t-t0)/1e9; u64 ops=done_ops,r1=n_recv; u64 pn=published-p0; sending=0;
  /* drain: every outstanding call / event must arrive */
  if(!m_churn){ u64 de=now_ns()+10000000000ull; long out=1; while(out&&now_ns()<de){ out=0; for(int i=0;i<NC;i++) out+=m_rpc?C[i].outst:(C[i].is_pub?C[i].poutst:0); if(out) pump(20);} if(out) err("%ld outstanding after drain",out); int alive=0; for(int i=0;i<NC;i++) alive+=C[i].state==S_READY; if(alive!=NC) err("only %d of %d connections alive",alive,NC); }
  COMMON; printf("\"setup_s\":%.2f,\"elapsed\":%.3f,\"ops\":%llu,\"rate\":%.1f,\"published\":%llu,\"mean_us\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,\"ops_per_recv\":%.2f,\"gen_cpu\":%.3f,\"srv_cpu\":%.3f,\"steal\":%.3f}\n",conn_el,el,(unsigned long long)ops,ops/el,(unsigned long long)pn,Hn?Hsum/Hn/1e3:0,hq(.5),hq(.99),hq(.999),hq(1),r1>r0?(double)ops/(r1-r0):0,(gc1-gc)/el,(sc1-sc)/el,(st1-st)/el); return errors?2:0; }
