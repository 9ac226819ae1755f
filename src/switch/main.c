/* The program: `hutch-switch NETWORK`, which hutch starts. */
int main(void)
{
    return 2;
}
